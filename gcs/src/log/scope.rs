//! The request that the current work is for, and that its log records are about.
//!
//! ```text
//! frame ─ Scope::of(request).enter() ─ handler ─ records
//!             └ Scope::current() kept by task, dial, started program ─ enter() ─ more records
//!             └ inherited by a forked child
//! ```
//!
//! A scope ends with the guard of its [`Scope::enter`], also in a panic. So no record names a
//! request that it is not about.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use serde_json::Value;

use crate::prot::{MessageBase, MessageId, SequenceId};

/// Ids are GUIDs or about as long; a longer one is cut in records.
const ID_MAX: usize = 128;

/// A request as records name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestIds {
    message: String,
    sequence: SequenceId,
    container: String,
    activity: String,
    /// Trace and span of the host, as 32 and 16 hexadecimal digits (protocol 3.3).
    span: Option<(String, String)>,
}

/// What a record says of a request, member by member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IdValue<'a> {
    Text(&'a str),
    Number(u64),
}

impl fmt::Display for IdValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No sign in it has to be escaped: see `cut`.
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl From<IdValue<'_>> for Value {
    fn from(value: IdValue<'_>) -> Self {
        match value {
            IdValue::Text(text) => text.into(),
            IdValue::Number(number) => number.into(),
        }
    }
}

/// A request, or none. Cheap to clone and to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Option<Rc<RequestIds>>);

thread_local! {
    static CURRENT: RefCell<Scope> = const { RefCell::new(Scope(None)) };
}

impl Scope {
    pub fn of(message: MessageId, sequence: SequenceId, base: &MessageBase) -> Self {
        Self(Some(Rc::new(RequestIds {
            message: message.to_string(),
            sequence,
            container: cut(&base.container_id),
            activity: cut(&base.activity_id),
            span: base.span(),
        })))
    }

    /// The scope that was entered last and not left yet.
    pub fn current() -> Self {
        CURRENT
            .try_with(|current| current.borrow().clone())
            .unwrap_or_default()
    }

    /// Makes it the current scope until the guard is dropped.
    pub fn enter(&self) -> Entered {
        Entered(CURRENT.replace(self.clone()))
    }

    /// Name and value of each member of a record about it, by the reference's names.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, IdValue<'_>)> {
        let request = self.0.as_deref();
        let ids = request.map(|request| {
            [
                ("message-type", IdValue::Text(&request.message)),
                ("message-id", IdValue::Number(request.sequence)),
                ("cid", IdValue::Text(&request.container)),
                ("activityID", IdValue::Text(&request.activity)),
            ]
        });
        let span = request.and_then(|request| request.span.as_ref());
        let span = span.map(|(trace, span)| {
            [
                ("traceID", IdValue::Text(trace)),
                ("spanID", IdValue::Text(span)),
            ]
        });
        ids.into_iter().flatten().chain(span.into_iter().flatten())
    }
}

/// Restores the previous scope when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Entered(Scope);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.replace(std::mem::take(&mut self.0));
    }
}

/// An id as records show it. It is short and has only characters that no form has to escape, so
/// that a record of a child always has room for it.
fn cut(id: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\\' => '?',
        c if c.is_control() => '?',
        c => c,
    };
    let mut id: String = id.chars().take(ID_MAX).map(plain).collect();
    super::record::truncate(&mut id, ID_MAX);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(sequence: SequenceId) -> Scope {
        Scope::of(MessageId::CREATE, sequence, &MessageBase::default())
    }

    #[test]
    fn a_scope_ends_with_its_guard_also_by_a_panic() {
        let outer = scope(1).enter();
        let unwound = std::panic::catch_unwind(|| {
            let _inner = scope(2).enter();
            assert_eq!(Scope::current(), scope(2));
            std::panic::resume_unwind(Box::new(()));
        });
        unwound.expect_err("it panics");
        assert_eq!(Scope::current(), scope(1));
        drop(outer);
        assert_eq!(Scope::current(), Scope::default());
    }

    #[test]
    fn absurd_ids_are_cut() {
        let base = MessageBase {
            container_id: "é".repeat(1000),
            ..MessageBase::default()
        };
        let scope = Scope::of(MessageId::CREATE, 0, &base);
        let cid = "é".repeat(ID_MAX / 2);
        assert_eq!(scope.fields().nth(2), Some(("cid", IdValue::Text(&cid))));
        assert_eq!(cut("a\u{1}\"\\b\n"), "a???b?");
    }
}
