//! All containers, and what holds between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::{Container, ContainerState};
use super::processes::{ProcessKey, Processes};
use crate::bundle::sandbox_id;
use crate::error::Failure;
use crate::prot::HResult;

/// All containers by their id. No bundle lies inside the bundle of another container.
#[derive(Default)]
pub struct Containers(BTreeMap<String, Container>);

impl Containers {
    /// # Errors
    /// The id is in use; or the bundle overlaps with that of another container, which removes it
    /// when it is deleted.
    pub fn add(&mut self, id: &str, container: Container) -> Result<(), Failure> {
        self.check_free(id)?;
        let bundle = container.bundle();
        let overlaps = |other: &Path| bundle.starts_with(other) || other.starts_with(bundle);
        // A container whose bundle is not known yet shares none.
        let mut others = self.0.iter().filter(|_| !bundle.as_os_str().is_empty());
        if let Some((other, _)) = others.find(|(_, other)| overlaps(other.bundle())) {
            let text =
                format!("OciBundlePath {bundle:?}: container {other:?} has its bundle there");
            return Err(Failure::new(HResult::INVALID_ARGUMENT, text));
        }
        self.0.insert(id.to_owned(), container);
        Ok(())
    }

    /// # Errors
    /// There is a container of this id.
    pub fn check_free(&self, id: &str) -> Result<(), Failure> {
        if self.0.contains_key(id) {
            let text = format!("there is a container {id:?} already");
            return Err(Failure::new(HResult::SYSTEM_ALREADY_EXISTS, text));
        }
        Ok(())
    }

    /// A workload is refused when its pod does not exist (P-375).
    ///
    /// # Errors
    /// The spec of the container `id` names a sandbox that there is not.
    pub fn check_pod(&self, id: &str, spec: &Value) -> Result<(), Failure> {
        match sandbox_id(spec) {
            Some(sandbox) if sandbox != id && !self.0.contains_key(sandbox) => {
                let text =
                    format!("container {id:?} belongs to pod {sandbox:?}, which is not there");
                Err(Failure::unspecified(text))
            }
            _ => Ok(()),
        }
    }

    /// A container that requests can act on. One that is still being created is in the wrong state
    /// (P-056, P-058).
    pub fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        match self.0.get_mut(id) {
            None => Err(Failure::new(
                HResult::SYSTEM_NOT_FOUND,
                format!("there is no container {id:?}"),
            )),
            Some(container) if container.state() == ContainerState::Creating => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("container {id:?} is still being created"),
            )),
            Some(container) => Ok(container),
        }
    }

    /// A container in whatever state.
    pub fn get(&self, id: &str) -> Option<&Container> {
        self.0.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.0.get_mut(id)
    }

    pub fn remove(&mut self, id: &str) -> Option<Container> {
        self.0.remove(id)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The process `pid` of a container (P-057).
    pub fn process(
        &mut self,
        id: &str,
        pid: u32,
        processes: &Processes,
    ) -> Result<ProcessKey, Failure> {
        let container = self.find(id)?;
        let exec = container.exec(pid);
        let init = container
            .init()
            .filter(|key| processes.pid(*key) == Some(pid));
        exec.or(init).ok_or_else(|| {
            let text = format!("container {id:?} has no process {pid}");
            Failure::new(HResult::NOT_FOUND, text)
        })
    }

    /// The container whose start is under way, unless it has ended or was replaced since.
    pub fn starting(&mut self, id: &str, init: Option<ProcessKey>) -> Option<&mut Container> {
        let same = |c: &&mut Container| c.state() == ContainerState::Starting && c.init() == init;
        self.0.get_mut(id).filter(same)
    }

    /// The mount sources of all containers except this one. `None` while they are not known,
    /// because one of them is being created.
    pub fn sources_of_others(&self, id: &str) -> Option<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for (_, container) in self.0.iter().filter(|(other, _)| *other != id) {
            sources.extend_from_slice(&container.outline()?.sources);
        }
        Some(sources)
    }

    /// The bundles of ended containers whose scratch lies below this path. They are mounted from
    /// there.
    pub fn ended_bundles_on(&self, path: &Path) -> Vec<PathBuf> {
        let ended = self.0.values().filter(|container| {
            container.state() == ContainerState::Exited && container.scratch().starts_with(path)
        });
        ended
            .map(|container| container.bundle().to_owned())
            .collect()
    }

    /// One line for each, for the state dump.
    pub fn describe(&self, processes: &Processes) -> Vec<String> {
        let line = |(id, container): (&String, &Container)| container.describe(id, processes);
        self.0.iter().map(line).collect()
    }
}
