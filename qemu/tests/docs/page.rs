//! A page of Markdown: its fenced blocks, links and tables.

use std::path::{Path, PathBuf};

pub struct Page {
    /// From the top of the repository.
    pub name: String,
    path: PathBuf,
    text: String,
    pub blocks: Vec<Block>,
}

/// What stands between two fences.
pub struct Block {
    /// Of the line after the opening fence, from 1.
    line: usize,
    pub language: String,
    /// The first word after the language.
    pub word: Option<String>,
    lines: Vec<String>,
}

/// A command of a block, and what the page says that it prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Without the `$ `; continued lines are joined.
    pub line: String,
    pub prints: Vec<String>,
}

impl Page {
    pub fn read(root: &Path, name: &Path) -> Self {
        let path = root.join(name);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for (number, line) in text.lines().enumerate() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if inside => inside = false,
                Some(info) => {
                    let mut words = info.split_whitespace();
                    blocks.push(Block {
                        line: number + 2,
                        language: words.next().unwrap_or_default().to_owned(),
                        word: words.next().map(str::to_owned),
                        lines: Vec::new(),
                    });
                    inside = true;
                }
                None if inside => {
                    let block = blocks.last_mut().expect("inside means that one was pushed");
                    block.lines.push(line.to_owned());
                }
                None => {}
            }
        }
        assert!(!inside, "{}: a block is not closed", path.display());
        Self {
            name: name.to_string_lossy().into_owned(),
            path,
            text,
            blocks,
        }
    }

    /// Every page that git knows.
    pub fn all(root: &Path) -> Vec<Self> {
        let listed = std::process::Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
                "*.md",
            ])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            listed.status.success(),
            "git ls-files: {}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let names = String::from_utf8(listed.stdout).unwrap();
        let names = names
            .split('\0')
            .filter(|name| !name.is_empty() && root.join(name).exists());
        names.map(|name| Self::read(root, name.as_ref())).collect()
    }

    pub fn at(&self, block: &Block) -> String {
        format!("{}:{}", self.name, block.line)
    }

    /// All commands, with the block that each stands in.
    pub fn commands(&self) -> impl Iterator<Item = (&Block, Command)> {
        let console = self
            .blocks
            .iter()
            .filter(|block| block.language == "console");
        console.flat_map(|block| {
            block
                .commands()
                .into_iter()
                .map(move |command| (block, command))
        })
    }

    /// Lines outside the fences, with their numbers from 1.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut inside = false;
        self.text
            .lines()
            .enumerate()
            .filter_map(move |(number, line)| {
                let fence = line.trim_start().starts_with("```");
                inside ^= fence;
                (!inside && !fence).then_some((number + 1, line))
            })
    }

    /// The anchors of the headings, as GitHub makes them.
    fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|(_, line)| line.starts_with('#'));
        let anchor = |(_, line): (usize, &str)| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }

    /// Links into the repository whose file or heading is not there.
    pub fn broken_links(&self, root: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, line) in self.prose() {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                if target.contains("://") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() {
                    self.path.clone()
                } else {
                    self.path.parent().expect("it is a file").join(file)
                };
                let found = path.exists()
                    && (anchor.is_empty()
                        || Page::read(root, &path)
                            .anchors()
                            .iter()
                            .any(|a| a == anchor));
                if !found {
                    wrong.push(format!("{}:{number}: {target} is not there", self.name));
                }
            }
        }
        wrong
    }

    /// Rows of tables that do not belong to a head, or have another number of cells than it.
    pub fn broken_tables(&self) -> Vec<String> {
        let cells = |row: &str| row.replace("\\|", "").matches('|').count();
        let mut wrong = Vec::new();
        let (mut head, mut rows, mut previous) = (0, 0, 0);
        for (number, line) in self.prose() {
            if !line.starts_with('|') {
                continue;
            }
            if number != previous + 1 {
                (head, rows) = (cells(line), 0);
            }
            (previous, rows) = (number, rows + 1);
            if rows == 2 && !line.starts_with("|-") {
                wrong.push(format!(
                    "{}:{number}: the table above has no head",
                    self.name
                ));
            }
            if cells(line) != head {
                wrong.push(format!(
                    "{}:{number}: the row has not {} cells",
                    self.name,
                    head - 1
                ));
            }
        }
        wrong
    }
}

impl Block {
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for line in &self.lines {
            let open = commands
                .last_mut()
                .filter(|c| c.line.ends_with('\\') && c.prints.is_empty());
            if let Some(command) = open {
                command.line.pop();
                command.line.push_str(line.trim_start());
            } else if let Some(line) = line.strip_prefix("$ ") {
                commands.push(Command {
                    line: line.to_owned(),
                    prints: Vec::new(),
                });
            } else if let Some(command) = commands.last_mut() {
                command.prints.push(line.clone());
            }
        }
        commands
    }
}
