//! One measured figure, the floor of the machine for it, and its budget.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MiB/s")]
    MebibytesPerSecond,
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "KiB")]
    Kibibytes,
    /// Thousands of the guest's instructions.
    #[serde(rename = "k insn")]
    Kiloinstructions,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MebibytesPerSecond => "MiB/s",
            Self::PerSecond => "1/s",
            Self::Kibibytes => "KiB",
            Self::Kiloinstructions => "k insn",
        }
    }

    /// Whether less is worse.
    fn is_rate(self) -> bool {
        matches!(self, Self::MebibytesPerSecond | Self::PerSecond)
    }
}

/// The budget of a figure. Each part that is given must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Multiple of the floor: at most, for a rate at least.
    pub ratio: Option<f64>,
    /// In the figure's unit: at most, for a rate at least.
    pub absolute: Option<f64>,
    /// Multiple of the peer, where there is one: at most, for a rate at least.
    pub peer: Option<f64>,
}

/// Samples of the guest, of the floor, and of another runtime in the same VM, taken in turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    /// What the floor is.
    pub against: &'static str,
    pub samples: Vec<f64>,
    pub floor: Vec<f64>,
    /// Empty where there is no peer, or where the machine does not have it.
    pub peer: Vec<f64>,
    pub budget: Budget,
}

impl Figure {
    pub fn new(name: impl Into<String>, unit: Unit) -> Self {
        Self {
            name: name.into(),
            unit,
            against: "",
            samples: Vec::new(),
            floor: Vec::new(),
            peer: Vec::new(),
            budget: Budget::default(),
        }
    }

    #[must_use]
    pub fn against(mut self, floor: &'static str, ratio: f64) -> Self {
        self.against = floor;
        self.budget.ratio = Some(ratio);
        self
    }

    #[must_use]
    pub fn within(mut self, absolute: f64) -> Self {
        self.budget.absolute = Some(absolute);
        self
    }

    #[must_use]
    pub fn beside_peer(mut self, ratio: f64) -> Self {
        self.budget.peer = Some(ratio);
        self
    }

    pub fn value(&self) -> Option<f64> {
        median(&self.samples)
    }

    pub fn floor_value(&self) -> Option<f64> {
        median(&self.floor)
    }

    pub fn peer_value(&self) -> Option<f64> {
        median(&self.peer)
    }

    pub fn ratio(&self) -> Option<f64> {
        Some(self.value()? / self.floor_value()?)
    }

    /// Whether the budget holds; none without a budget, or when nothing was measured.
    pub fn holds(&self) -> Option<bool> {
        let meets = |value: f64, asked: f64| {
            if self.unit.is_rate() {
                value >= asked
            } else {
                value <= asked
            }
        };
        let ratio = match self.budget.ratio {
            Some(asked) => Some(meets(self.ratio()?, asked)),
            None => None,
        };
        let absolute = match self.budget.absolute {
            Some(asked) => Some(meets(self.value()?, asked)),
            None => None,
        };
        // A machine without the peer says nothing about it.
        let peer = match (self.budget.peer, self.peer_value()) {
            (Some(asked), Some(peer)) => Some(meets(self.value()? / peer, asked)),
            _ => None,
        };
        [ratio, absolute, peer]
            .into_iter()
            .flatten()
            .reduce(|one, other| one && other)
    }
}

/// The middle sample, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn budgets_hold_by_the_floor_and_by_themselves() {
        let figure = |unit, value: f64, ratio: Option<f64>, absolute: Option<f64>| Figure {
            samples: vec![value],
            floor: vec![10.0],
            budget: Budget {
                ratio,
                absolute,
                peer: None,
            },
            ..Figure::new("f", unit)
        };
        use Unit::{MebibytesPerSecond as Rate, Milliseconds as Time};
        for (unit, value, ratio, absolute, expected) in [
            (Time, 30.0, Some(3.0), None, Some(true)),
            (Time, 31.0, Some(3.0), None, Some(false)),
            (Time, 30.0, Some(3.0), Some(29.0), Some(false)),
            (Time, 30.0, None, Some(30.0), Some(true)),
            (Rate, 8.0, Some(0.8), None, Some(true)),
            (Rate, 7.0, Some(0.8), None, Some(false)),
            (Rate, 7.0, None, Some(8.0), Some(false)),
            (Time, 7.0, None, None, None),
        ] {
            let figure = figure(unit, value, ratio, absolute);
            assert_eq!(figure.holds(), expected, "{figure:?}");
        }
        let mut beside = figure(Time, 7.0, Some(1.0), None).beside_peer(0.7);
        assert_eq!(beside.holds(), Some(true));
        for (peer, expected) in [(10.0, true), (9.0, false)] {
            beside.peer = vec![peer];
            assert_eq!(beside.holds(), Some(expected), "{peer}");
        }
        // Without a measurement there is no verdict.
        let mut unmeasured = figure(Time, 1.0, Some(1.0), None);
        unmeasured.floor.clear();
        assert_eq!(unmeasured.holds(), None);
    }
}
