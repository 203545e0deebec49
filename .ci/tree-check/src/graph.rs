//! A graph of names, and the cycles in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// Who uses whom, and one place where.
#[derive(Debug, Default)]
pub struct Graph {
    edges: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    pub fn node(&mut self, name: &str) {
        self.edges.entry(name.into()).or_default();
    }

    /// Notes that `from` uses `to` at `place`; the first place is kept.
    pub fn edge(&mut self, from: &str, to: &str, place: impl FnOnce() -> String) {
        self.node(to);
        let uses = self.edges.entry(from.into()).or_default();
        if from != to && !uses.contains_key(to) {
            uses.insert(to.into(), place());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// The shortest cycle through each knot of names that use each other, with the place of each step.
    pub fn cycles(&self) -> Vec<String> {
        let (mut seen, mut cycles) = (BTreeSet::new(), Vec::new());
        for name in self.edges.keys() {
            if seen.contains(name) {
                continue;
            }
            let Some(path) = self.way_back(name) else {
                continue;
            };
            seen.extend(self.knot(name));
            let steps = path.iter().zip(path.iter().cycle().skip(1));
            let steps: Vec<_> = steps
                .map(|(from, to)| format!("{from} -> {to} ({})", self.edges[*from][*to]))
                .collect();
            cycles.push(steps.join("\n    "));
        }
        cycles
    }

    /// The shortest way from a name back to itself: the names on it, each once.
    fn way_back<'a>(&'a self, name: &'a str) -> Option<Vec<&'a str>> {
        let mut came: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([name]);
        while let Some(at) = queue.pop_front() {
            for next in self.edges[at].keys() {
                if next == name {
                    let mut path = vec![at];
                    while let Some(before) = came.get(path[path.len() - 1]) {
                        path.push(before);
                    }
                    path.reverse();
                    return Some(path);
                }
                if !came.contains_key(next.as_str()) {
                    came.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// The names that can be reached from a name and reach it.
    fn knot(&self, name: &str) -> Vec<String> {
        let reach = self.reach(name);
        let back = |other: &String| self.reach(other).contains(name);
        reach.into_iter().filter(back).collect()
    }

    fn reach(&self, name: &str) -> BTreeSet<String> {
        let (mut reach, mut open) = (BTreeSet::new(), vec![name]);
        while let Some(at) = open.pop() {
            for next in self.edges[at].keys() {
                if reach.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        reach
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, uses) in &self.edges {
            let uses: Vec<&str> = uses.keys().map(String::as_str).collect();
            match uses.is_empty() {
                true => writeln!(f, "  {name}")?,
                false => writeln!(f, "  {name} -> {}", uses.join(", "))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            graph.edge(from, to, || format!("{from}.rs"));
        }
        graph
    }

    #[test]
    fn what_uses_itself_only_through_nobody_is_no_cycle() {
        let graph = graph(&[("a", "b"), ("a", "a"), ("b", "c"), ("a", "c")]);
        assert_eq!(graph.cycles(), Vec::<String>::new());
        assert_eq!(graph.to_string(), "  a -> b, c\n  b -> c\n  c\n");
    }

    #[test]
    fn each_knot_is_told_once_by_its_shortest_cycle() {
        let graph = graph(&[
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("d", "a"),
            ("c", "a"),
            ("x", "y"),
            ("y", "x"),
            ("d", "x"),
        ]);
        let expected = [
            "a -> b (a.rs)\n    b -> c (b.rs)\n    c -> a (c.rs)",
            "x -> y (x.rs)\n    y -> x (y.rs)",
        ];
        assert_eq!(graph.cycles(), expected);
    }
}
