//! What one run of a program or of a piece of code took: wall time, CPU seconds, highest resident memory.
//! It must never judge a figure: it measures, and the table shows.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) wall: f64,
    /// Seconds of CPU time, user and system, of the program and its children.
    pub(crate) cpu: f64,
    /// Highest resident memory, MiB; 0 where it was not measured.
    pub(crate) memory: f64,
}

/// Runs a program to its end, which must be a success.
pub(crate) fn measured(command: &mut Command) -> Result<Cost> {
    let (start, cpu) = (now(), children_cpu_seconds()?);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).map(|_| said)
    });
    let memory = watch(&mut child)?;
    let wall = start.elapsed().as_secs_f64();
    let said = said.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
    ensure!(child.wait()?.success(), "{command:?} failed: {said}");
    Ok(Cost {
        wall,
        cpu: children_cpu_seconds()? - cpu,
        memory,
    })
}

/// Waits for the end of a program; its high-water mark on the way.
fn watch(child: &mut Child) -> Result<f64> {
    let mut memory = 0.0;
    while child.try_wait()?.is_none() {
        memory = status_mib(child.id(), "VmHWM:").unwrap_or(memory);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(memory)
}

/// One memory line of proc(5)'s status, in MiB.
pub(crate) fn status_mib(process: u32, name: &str) -> Option<f64> {
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{process}/status"))).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// Runs a piece of code in this process; its CPU seconds, all threads of the process.
pub(crate) fn spent(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (start, cpu) = (now(), own_cpu_seconds()?);
    work()?;
    Ok(Cost {
        wall: start.elapsed().as_secs_f64(),
        cpu: own_cpu_seconds()? - cpu,
        memory: 0.0,
    })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time as people count it, to compare with what other programs wrote.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn clock() -> SystemTime {
    SystemTime::now()
}

/// CPU seconds of this process (fields 14 and 15 of proc(5)'s stat).
fn own_cpu_seconds() -> Result<f64> {
    ticks(Path::new("/proc/self/stat"), 14)
}

/// CPU seconds of children that ended and were waited for (fields 16 and 17).
fn children_cpu_seconds() -> Result<f64> {
    ticks(Path::new("/proc/self/stat"), 16)
}

/// CPU seconds of another process so far.
pub(crate) fn cpu_seconds_of(process: u32) -> Result<f64> {
    ticks(&PathBuf::from(format!("/proc/{process}/stat")), 14)
}

/// Two neighbouring fields of a stat file, the first numbered as proc(5) numbers them, from ticks of 10 ms to seconds.
fn ticks(stat: &Path, first: usize) -> Result<f64> {
    let stat = fs::read_to_string(stat)?;
    // The fields behind the name begin with the third.
    let behind = stat.rsplit_once(')').context("odd stat")?.1;
    let fields = behind.split_whitespace().skip(first - 3).take(2);
    let ticks = fields.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

/// The run with the median wall time.
pub(crate) fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    costs.get(costs.len() / 2).copied().unwrap_or_default()
}

/// The value below which a share of the samples lies, such as 0.99; the samples get sorted.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or_default()
}
