//! Which lines are to be run.

use super::checklist::{name, Line};

/// The values of `--filter`. A line is run when one of them fits, or when there is none.
#[derive(Debug, Clone, Default)]
pub struct Selection(Vec<Word>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// `P-150-170`, both ends included.
    Range(u16, u16),
    /// `P-15` or `P-15..`: numbers that begin so.
    Prefix(String),
    /// Part of a title or an area, in any letter case.
    Part(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    #[error("{0:?} selects nothing: it is neither P-007, P-15, P-150-170 nor part of a title (--list shows all)")]
    Nothing(String),
}

impl Selection {
    /// # Errors
    /// A value that fits no line.
    pub fn new(
        words: &[String],
        area: impl Fn(u16) -> &'static str,
    ) -> Result<Self, SelectionError> {
        let mut parsed = Vec::new();
        for text in words {
            let word = parse(text);
            if !super::lines().any(|line| fits(&word, &line, area(line.id))) {
                return Err(SelectionError::Nothing(text.clone()));
            }
            parsed.push(word);
        }
        Ok(Self(parsed))
    }

    pub fn wants(&self, line: &Line, area: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| fits(word, line, area))
    }
}

fn parse(text: &str) -> Word {
    let upper = text.to_ascii_uppercase();
    let Some(number) = upper.strip_prefix("P-") else {
        return Word::Part(text.to_lowercase());
    };
    let range = number.split_once('-').and_then(|(from, to)| {
        let to = to.strip_prefix("P-").unwrap_or(to);
        Some((from.parse().ok()?, to.parse().ok()?))
    });
    match range {
        Some((from, to)) => Word::Range(from, to),
        None => Word::Prefix(format!("P-{}", number.trim_end_matches(['.', '*']))),
    }
}

fn fits(word: &Word, line: &Line, area: &str) -> bool {
    match word {
        Word::Range(from, to) => (*from..=*to).contains(&line.id),
        Word::Prefix(prefix) => name(line.id).starts_with(prefix.as_str()),
        Word::Part(part) => line.title.to_lowercase().contains(part) || area.contains(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &[&str]) -> Vec<u16> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let area = |id| if id < 30 { "transport" } else { "other" };
        let selection = Selection::new(&words, area).unwrap();
        let wanted = super::super::lines().filter(|line| selection.wants(line, area(line.id)));
        wanted.map(|line| line.id).collect()
    }

    #[test]
    fn words_select_by_number_range_prefix_and_part() {
        assert_eq!(ids(&["P-007"]), [7]);
        assert_eq!(ids(&["p-150-152", "P-007"]), [7, 150, 151, 152]);
        assert_eq!(ids(&["P-07.."]), (70..=78).collect::<Vec<_>>());
        assert_eq!(ids(&["MaximumVersion"]), [78]);
        assert_eq!(ids(&["transport"]).len(), 23);
        assert_eq!(ids(&[]).len(), super::super::lines().count());
    }

    #[test]
    fn words_that_select_nothing_are_told() {
        for word in ["P-999", "P-8-3", "no such title"] {
            let refusal = Selection::new(&[word.to_owned()], |_| "").unwrap_err();
            assert_eq!(refusal, SelectionError::Nothing(word.to_owned()));
        }
    }
}
