//! Runs the selected lines on several workers, each with VMs of its own.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use uvm::private_dir::PrivateDir;
use uvm_host::LogSink;
use uvm_images::{Cache, OciError};
use uvm_vm::choice::AccelWish;
use uvm_vm::profile::Profile;

use super::check::{fail, not_run, Checked, Stop};
use super::checklist::{lines, Line};
use super::lab::{Lab, Supplies, Watch};
use super::report::{Outcome, Report, Verdict};
use super::select::Selection;
use super::{task, Scenario, Task};

/// How often the scenarios' deadlines are checked.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    #[error("the tools' disk: {0}")]
    Tools(#[from] OciError),
    #[error("a private directory: {0}")]
    Dir(std::io::Error),
    #[error("no VM can be booted: {0}")]
    Boot(String),
}

/// What to run, on what.
pub struct Order {
    /// The guest under test.
    pub profile: Profile,
    pub accel: AccelWish,
    pub selection: Selection,
    /// VMs at once.
    pub jobs: usize,
    /// Stop at the first fail.
    pub fail_fast: bool,
    /// Where the tools' disk is kept; `None`: the user's cache.
    pub cache: Option<PathBuf>,
    pub log: Option<Box<dyn Fn() -> LogSink + Send + Sync>>,
}

/// A lab outside a run, for tests of more than the checklist. `cache` as in [`Order`].
///
/// # Errors
/// The tools cannot be made.
pub fn lab(profile: Profile, cache: Option<&Path>) -> Result<Lab, ConformanceError> {
    let supplies = supplies(profile, AccelWish::default(), cache)?;
    Ok(Lab::new(Arc::new(supplies), Watch::default()))
}

fn supplies(
    profile: Profile,
    accel: AccelWish,
    cache: Option<&Path>,
) -> Result<Supplies, ConformanceError> {
    let cache = Cache::open(cache)?;
    let image = uvm_images::default_image(&cache)?;
    Ok(Supplies {
        profile,
        accel,
        // The default image is made of one layer.
        layer: image.layers[0].path.clone(),
        dir: PrivateDir::new().map_err(ConformanceError::Dir)?,
        log: None,
    })
}

/// Runs the order. `told` gets each outcome in the order of the checklist, as soon as it and all
/// before it are known.
///
/// # Errors
/// The tools cannot be made, or not even a plain VM comes up.
pub fn run(order: Order, mut told: impl FnMut(&Outcome)) -> Result<Report, ConformanceError> {
    let began = Instant::now();
    let mut supplies = supplies(order.profile, order.accel, order.cache.as_deref())?;
    supplies.log = order.log;
    let supplies = Arc::new(supplies);
    let jobs: Vec<(Line, Task)> = lines()
        .map(|line| (line, task(line.id)))
        .filter(|(line, (_, area))| order.selection.wants(line, area))
        .map(|(line, (task, _))| (line, task))
        .collect();

    // A worker's lab is made on its thread; the first VM of all is a probe of the guest.
    let watches: Vec<Watch> = (0..order.jobs.max(1)).map(|_| Watch::default()).collect();
    let runs = jobs.iter().any(|(_, task)| matches!(task, Task::Run(_)));
    let probe = Watch::default();
    if runs {
        if let Err(Stop::Fail { seen, .. }) = Lab::new(Arc::clone(&supplies), probe).probe() {
            return Err(ConformanceError::Boot(seen));
        }
    }

    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut outcomes: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (tell, hear) = mpsc::channel();
        for watch in &watches {
            let (tell, supplies) = (tell.clone(), Arc::clone(&supplies));
            let (jobs, next, stop) = (&jobs, &next, &stop);
            let fail_fast = order.fail_fast;
            scope.spawn(move || {
                let mut lab = Lab::new(supplies, watch.clone());
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((line, task)) = jobs.get(at) else {
                        return;
                    };
                    let outcome = match task {
                        _ if stop.load(Ordering::Relaxed) => skip(*line, "stopped at a fail"),
                        Task::Skip(why) => skip(*line, why),
                        Task::Run(scenario) => one(&mut lab, *line, *scenario),
                    };
                    if fail_fast && matches!(outcome.verdict, Verdict::Fail { .. }) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    // The receiver outlives the workers.
                    drop(tell.send((at, outcome)));
                }
            });
        }
        drop(tell);
        let mut shown = 0;
        loop {
            match hear.recv_timeout(LOOK) {
                Ok((at, outcome)) => outcomes[at] = Some(outcome),
                Err(mpsc::RecvTimeoutError::Timeout) => watches.iter().for_each(Watch::look),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            while let Some(Some(outcome)) = outcomes.get(shown) {
                told(outcome);
                shown += 1;
            }
        }
    });
    Ok(Report {
        outcomes: outcomes.into_iter().flatten().collect(),
        took: began.elapsed(),
    })
}

fn skip(line: Line, why: &str) -> Outcome {
    Outcome::new(line, not_run(why).into(), Duration::ZERO, Vec::new())
}

fn one(lab: &mut Lab, line: Line, scenario: Scenario) -> Outcome {
    lab.begin();
    let began = Instant::now();
    let ran = catch_unwind(AssertUnwindSafe(|| scenario(lab)));
    let ran: Checked =
        ran.unwrap_or_else(|panic| Err(fail("no panic in the scenario", said(&*panic))));
    let took = began.elapsed();
    let (ran, log) = lab.end(ran);
    let verdict = match ran {
        Ok(()) => Verdict::Pass,
        Err(stop) => stop.into(),
    };
    Outcome::new(line, verdict, took, log)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
