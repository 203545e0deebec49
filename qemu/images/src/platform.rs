//! What the VM's processor runs, and which of an image's variants fits it best.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// linux/amd64 up to a level of the x86-64 psABI: 1 is what every such processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    level: u8,
}

/// What an index or a configuration says that it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Offered {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    pub variant: Option<String>,
}

const LEVEL_MAX: u8 = 4;
/// Without KVM the VM's processor is emulated, and has no AVX-512: v4 is for those who ask for it.
const LEVEL_CHOSEN: u8 = 3;

impl Platform {
    /// What this machine's processor has.
    pub fn of_machine() -> Platform {
        let level = level().min(LEVEL_CHOSEN);
        Platform { level }
    }

    /// The higher the better; `None` for what does not run.
    pub fn rank(self, offered: &Offered) -> Option<u8> {
        let ours = offered.os == "linux" && offered.architecture == "amd64";
        let level = level_of(offered.variant.as_deref())?;
        (ours && level <= self.level).then_some(level)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Platform, String> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next(), parts.next());
        let variant = parts.next();
        if (os, architecture, parts.next()) != (Some("linux"), Some("amd64"), None) {
            return Err(format!(
                "the VM runs linux/amd64, linux/amd64/v2, …/v{LEVEL_MAX}, and not {text:?}"
            ));
        }
        let level = level_of(variant).ok_or_else(|| {
            format!("{text:?} has no variant of amd64: v1 to v{LEVEL_MAX} are those")
        })?;
        Ok(Platform { level })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            1 => write!(f, "linux/amd64"),
            level => write!(f, "linux/amd64 up to v{level}"),
        }
    }
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

fn level_of(variant: Option<&str>) -> Option<u8> {
    let variant = match variant {
        None | Some("") => return Some(1),
        Some(variant) => variant,
    };
    let level = variant.strip_prefix('v')?.parse().ok()?;
    (1..=LEVEL_MAX).contains(&level).then_some(level)
}

/// The levels as the psABI draws them, by the features of each that Rust knows by name.
#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let two = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2");
    let two = two && has!("popcnt") && has!("cmpxchg16b");
    let three = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c");
    let three = three && has!("fma") && has!("lzcnt") && has!("movbe");
    1 + u8::from(two) + u8::from(two && three)
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(text: &str) -> Offered {
        let mut parts = text.split('/').map(str::to_owned);
        Offered {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
        }
    }

    #[test]
    fn the_highest_level_that_runs_ranks_first() {
        let wanted: Platform = "linux/amd64/v2".parse().unwrap();
        for (text, rank) in [
            ("linux/amd64", Some(1)),
            ("linux/amd64/", Some(1)),
            ("linux/amd64/v1", Some(1)),
            ("linux/amd64/v2", Some(2)),
            ("linux/amd64/v3", None),
            ("linux/amd64/v9", None),
            ("linux/amd64/x", None),
            ("linux/arm64/v8", None),
            ("windows/amd64", None),
            ("unknown/unknown", None),
        ] {
            assert_eq!(wanted.rank(&offered(text)), rank, "{text}");
        }
    }

    #[test]
    fn platforms_of_the_command_line() {
        for (text, level) in [
            ("linux/amd64", Some(1)),
            ("linux/amd64/v4", Some(4)),
            ("linux/amd64/v5", None),
            ("linux/amd64/v3/x", None),
            ("linux/arm64", None),
            ("amd64", None),
            ("", None),
        ] {
            let found = text.parse::<Platform>();
            assert_eq!(
                found.clone().ok().map(|p| p.level),
                level,
                "{text}: {found:?}"
            );
        }
        let refused = "linux/arm64".parse::<Platform>().unwrap_err();
        assert!(
            refused.contains("linux/amd64") && refused.contains("linux/arm64"),
            "{refused}"
        );
    }
}
