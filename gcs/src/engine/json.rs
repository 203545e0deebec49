//! Reading a document member by member. A value knows where it stands, so that an error can name
//! it; the name is only put together then.

use std::fmt::{self, Display};

use serde_json::Value;

/// A value and the way to it.
#[derive(Clone, Copy)]
pub struct At<'a> {
    value: Option<&'a Value>,
    name: Name<'a>,
    above: Option<&'a At<'a>>,
}

#[derive(Clone, Copy)]
enum Name<'a> {
    Member(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The document itself; `name` is put before the names of its members unless it is empty.
    pub fn document(value: &'a Value, name: &'a str) -> Self {
        Self {
            value: Some(value).filter(|value| !value.is_null()),
            name: Name::Member(name),
            above: None,
        }
    }

    /// A member of an object. One of what is absent is absent.
    pub fn member(&'a self, name: &'a str) -> Result<At<'a>, String> {
        let value = match self.value {
            None => None,
            Some(Value::Object(members)) => members.get(name),
            Some(_) => return Err(self.wrong("an object")),
        };
        Ok(At {
            value: value.filter(|value| !value.is_null()),
            name: Name::Member(name),
            above: Some(self),
        })
    }

    /// The elements of a list; none when it is absent.
    pub fn list(&'a self) -> Result<impl Iterator<Item = At<'a>> + 'a, String> {
        let elements = match self.value {
            None => &[][..],
            Some(Value::Array(elements)) => elements,
            Some(_) => return Err(self.wrong("a list")),
        };
        Ok(elements.iter().enumerate().map(|(index, value)| At {
            value: Some(value).filter(|value| !value.is_null()),
            name: Name::Index(index),
            above: Some(self),
        }))
    }

    /// The members of an object in their order; none when it is absent.
    pub fn members(&'a self) -> Result<impl Iterator<Item = (&'a str, At<'a>)> + 'a, String> {
        let members = match self.value {
            None => None,
            Some(Value::Object(members)) => Some(members),
            Some(_) => return Err(self.wrong("an object")),
        };
        Ok(members.into_iter().flatten().map(|(name, value)| {
            let at = At {
                value: Some(value).filter(|value| !value.is_null()),
                name: Name::Member(name),
                above: Some(self),
            };
            (name.as_str(), at)
        }))
    }

    /// A text; absent is empty. One with a NUL is refused: the kernel would cut it there.
    pub fn text(&self) -> Result<&'a str, String> {
        match self.value {
            None => Ok(""),
            Some(Value::String(text)) if !text.contains('\0') => Ok(text),
            Some(Value::String(_)) => Err(self.refuse("it holds a NUL")),
            Some(_) => Err(self.wrong("a string")),
        }
    }

    pub fn flag(&self) -> Result<bool, String> {
        match self.value {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong("true or false")),
        }
    }

    /// A whole number that fits into `T`; `None` when it is absent.
    pub fn number<T: TryFrom<i128>>(&self) -> Result<Option<T>, String> {
        let Some(value) = self.value else {
            return Ok(None);
        };
        let number = value
            .as_i64()
            .map(i128::from)
            .or_else(|| value.as_u64().map(i128::from))
            .ok_or_else(|| self.wrong("a whole number"))?;
        T::try_from(number)
            .map(Some)
            .map_err(|_| self.refuse(format_args!("{number} is out of range")))
    }

    pub fn is_absent(&self) -> bool {
        self.value.is_none()
    }

    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// The error that this value cannot be used, with where it stands.
    pub fn refuse(&self, why: impl Display) -> String {
        format!("{self}: {why}")
    }

    fn wrong(&self, wanted: &str) -> String {
        self.refuse(format_args!("it is not {wanted}"))
    }
}

impl Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match self.name {
            Name::Index(index) => write!(f, "[{index}]"),
            Name::Member(name) => {
                let first = self
                    .above
                    .is_none_or(|above| matches!(above.name, Name::Member("")));
                write!(f, "{}{name}", if first { "" } else { "." })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_place() {
        let document = json!({"mounts": [{"type": 1, "options": [null, "a\0"]}], "n": 300});
        let top = At::document(&document, "");
        let mounts = top.member("mounts").unwrap();
        let first = mounts.list().unwrap().next().unwrap();
        let kind = first.member("type").unwrap();
        assert_eq!(
            kind.text().unwrap_err(),
            "mounts[0].type: it is not a string"
        );
        let options = first.member("options").unwrap();
        let texts: Vec<_> = options.list().unwrap().map(|o| o.text()).collect();
        assert_eq!(
            texts,
            [Ok(""), Err("mounts[0].options[1]: it holds a NUL".into())]
        );
        let number = top.member("n").unwrap();
        assert_eq!(number.number::<u16>(), Ok(Some(300)));
        assert_eq!(number.number::<u8>().unwrap_err(), "n: 300 is out of range");
        let absent = number.member("x");
        assert_eq!(absent.err().unwrap(), "n: it is not an object");
    }

    #[test]
    fn what_is_absent_or_null_is_empty() {
        let document = json!({"process": null});
        let top = At::document(&document, "");
        let process = top.member("process").unwrap();
        let args = process.member("args").unwrap();
        assert!(args.is_absent());
        assert_eq!(args.list().unwrap().count(), 0);
        assert_eq!((args.text(), args.flag()), (Ok(""), Ok(false)));
        assert_eq!(args.number::<u32>(), Ok(None));
    }
}
