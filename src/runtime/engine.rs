//! The process's one engine: a thread that owns MLX, started by the first `init` or model and ended with the last.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, SendError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};

use super::caches::set_prefix_limit;
use super::exit;
use super::job::Job;
use super::thread::Thread;
pub use super::worker::Trim;
use super::worker::Worker;
use crate::error::{Code, Error, Result};
use crate::host;
use crate::kernels::{self, Kernels, Pool};
use crate::mlx::{self, memory, Device};

/// Bytes of freed buffers that MLX keeps for reuse, unless `init` says otherwise: enough for a step's intermediates.
const DEFAULT_CACHE_LIMIT: u64 = 256 << 20;
/// Model code does not recurse; MLX's graph walk may.
const STACK: usize = 8 << 20;

/// What an engine takes until it runs: its stack, that of MLX's thread, and what MLX makes at its first use.
const START: usize = 2 * STACK + (8 << 20);

/// The engine thread's name.
const THREAD: &str = "mlxrt-engine";

thread_local! {
    static ENGINE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is an engine thread; also while it, or the process, ends.
pub(super) fn on_engine_thread() -> bool {
    ENGINE_THREAD.get()
}

/// What `init` may say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineOptions {
    /// `None`: the GPU where MLX has one.
    pub device: Option<Device>,
    /// Where `mlx.metallib` lies.
    pub resource_dir: Option<String>,
    pub limits: MemoryLimits,
    /// Threads of the CPU device's kernels; `None`: one for each physical core.
    pub cpu_threads: Option<usize>,
}

/// Bytes; `None` = the default, `u64::MAX` = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryLimits {
    pub memory: Option<u64>,
    /// Of freed buffers, and of keys and values of sessions that are gone.
    pub cache: Option<u64>,
    pub wired: Option<u64>,
}

impl MemoryLimits {
    /// What `self` leaves open is as `other` has it.
    fn or(self, other: MemoryLimits) -> MemoryLimits {
        MemoryLimits {
            memory: self.memory.or(other.memory),
            cache: self.cache.or(other.cache),
            wired: self.wired.or(other.wired),
        }
    }
}

pub(super) enum Command {
    Start(Box<Job>),
    /// A reader caught up, a session is free, or a request was cancelled: look again.
    Wake,
    /// Starts no device work from now on; answers when none runs.
    Pause(Sender<()>),
    /// Goes on, after a while.
    Resume(Duration),
    Do(Box<dyn FnOnce(&mut Worker) + Send>),
    Stop,
}

pub struct Engine {
    commands: Sender<Command>,
    device: Device,
    /// Threads that compute on the CPU device.
    threads: usize,
    /// Cleared when the thread ends; from then on every call fails.
    alive: Arc<AtomicBool>,
    thread: Arc<Thread>,
    next_id: AtomicU64,
    /// Models that hold it, those that are being loaded included.
    models: AtomicUsize,
    pub sessions: AtomicUsize,
    /// `stop` was called: no new work, and `acquire` starts another one.
    stopping: AtomicBool,
}

/// A model's hold on the engine, from the beginning of its load to its end.
pub struct Hold(Arc<Engine>);

impl std::ops::Deref for Hold {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.models.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who holds the engine.
#[derive(Default)]
struct Holders {
    inits: usize,
    /// Held while `inits` is not 0.
    held: Option<Arc<Engine>>,
    /// Models hold it too.
    engine: Weak<Engine>,
    options: EngineOptions,
    /// What `memory_set` said; what `init` says counts for more while an init is held.
    limits: MemoryLimits,
    suspends: usize,
}

static HOLDERS: Lazy<Mutex<Holders>> = Lazy::new(Mutex::default);

fn holders() -> std::sync::MutexGuard<'static, Holders> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Holders {
    fn running(&self) -> Option<Arc<Engine>> {
        self.engine
            .upgrade()
            .filter(|engine| engine.is_alive() && !engine.is_stopping())
    }

    fn start(&mut self) -> Result<Arc<Engine>> {
        if let Some(engine) = self.running() {
            return Ok(engine);
        }
        let engine = Engine::start(self.options.clone(), self.limits)?;
        self.engine = Arc::downgrade(&engine);
        Ok(engine)
    }

    fn refuse_when_suspended(&self) -> Result<()> {
        match self.suspends {
            0 => Ok(()),
            _ => Err(Error::new(
                Code::Suspended,
                "the library is suspended: mlxrt_resume first",
            )),
        }
    }
}

/// SUSPENDED while somebody suspends the engine.
pub fn refuse_when_suspended() -> Result<()> {
    holders().refuse_when_suspended()
}

/// Adds one to those who suspend the engine. On return no device work runs, and none starts before the last `resume`.
/// After TIMEOUT it is not counted; nothing new starts for a while, so that another try finds the engine quiet.
pub fn suspend(timeout: Option<Duration>) -> Result<()> {
    let (quiet, is_quiet) = channel();
    {
        let mut holders = holders();
        holders.suspends += 1;
        let Some(engine) = holders.engine.upgrade() else {
            return Ok(());
        };
        // Sent under the lock, so that the engine hears of suspends and resumes in the order in which they are counted.
        // (One that has ended does no work, and drops its end of the channel.)
        let _ = engine.send(Command::Pause(quiet));
    }
    let waited = match timeout {
        None => is_quiet.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(timeout) => is_quiet.recv_timeout(timeout.max(ANSWER)),
    };
    if waited == Err(RecvTimeoutError::Timeout) {
        end_suspend(&mut holders(), AFTER_TIMEOUT);
        return Err(Error::new(
            Code::Timeout,
            "the engine's running step did not end in time; nothing new starts for a second, so suspend again",
        ));
    }
    Ok(())
}

/// Also without a timeout an engine that is quiet gets this long to wake up and say so.
const ANSWER: Duration = Duration::from_millis(5);

/// How long the engine starts nothing new after a suspend that ran out of time.
const AFTER_TIMEOUT: Duration = Duration::from_secs(1);

/// Drops one suspend; after the last one the engine goes on.
pub fn resume() -> Result<()> {
    let mut holders = holders();
    if holders.suspends == 0 {
        return Err(Error::invalid("resume without a suspend"));
    }
    end_suspend(&mut holders, Duration::ZERO);
    Ok(())
}

fn end_suspend(holders: &mut Holders, after: Duration) {
    // A stray resume may have taken back what ends here.
    holders.suspends = holders.suspends.saturating_sub(1);
    if holders.suspends == 0 {
        if let Some(engine) = holders.engine.upgrade() {
            let _ = engine.send(Command::Resume(after));
        }
    }
}

/// Changes the limits that are `Some`, now and for engines to come.
pub fn set_limits(limits: MemoryLimits) -> Result<()> {
    prepare();
    at_start()?;
    let mut holders = holders();
    let given = &mut holders.options.limits;
    *given = MemoryLimits {
        memory: given.memory.filter(|_| limits.memory.is_none()),
        cache: given.cache.filter(|_| limits.cache.is_none()),
        wired: given.wired.filter(|_| limits.wired.is_none()),
    };
    holders.limits = limits.or(holders.limits);
    set_given(&limits)
}

fn set_given(limits: &MemoryLimits) -> Result<()> {
    if limits.cache.is_some() {
        set_prefix_limit(limits.cache);
    }
    let set = [
        limits.memory.map(memory::set_limit),
        limits.cache.map(memory::set_cache_limit),
        limits.wired.map(memory::set_wired_limit),
    ];
    set.into_iter().flatten().collect()
}

/// Frees what can be made again.
pub fn trim(what: Trim) -> Result<()> {
    prepare();
    match current() {
        Some(engine) => engine.call(move |worker| {
            worker.trim(what);
            mlx::fast::trim();
            Ok(())
        }),
        None => {
            memory::clear_cache();
            Ok(())
        }
    }
}

/// Adds one holder and starts the engine if it does not run.
pub fn init(options: EngineOptions) -> Result<()> {
    let mut holders = holders();
    match holders.running() {
        Some(engine) => {
            if let Some(wanted) = options.device.filter(|&wanted| wanted != engine.device) {
                return Err(Error::new(
                    Code::Incompatible,
                    format!(
                        "init asks for the device {}, but the engine of this process runs on {}",
                        wanted.name(),
                        engine.device.name()
                    ),
                ));
            }
            set_given(&options.limits)?;
            holders.options.limits = options.limits.or(holders.options.limits);
            holders.held = Some(engine);
        }
        None => {
            holders.refuse_when_suspended()?;
            let engine = Engine::start(options.clone(), holders.limits)?;
            holders.engine = Arc::downgrade(&engine);
            holders.held = Some(engine);
            // Only of an engine that started: what failed must not fail the loads that come.
            holders.options = options;
        }
    }
    holders.inits += 1;
    Ok(())
}

/// How often a shutdown was forced.
static FORCED: AtomicU64 = AtomicU64::new(0);

/// What loads compare: one that began before such a shutdown ends with it, also where it holds no engine yet.
pub(super) fn forced_shutdowns() -> u64 {
    FORCED.load(Ordering::Acquire)
}

/// Drops one holder. When models are left it says so (BUSY) and the last of them ends the engine; `force` ends it now.
pub fn shutdown(force: bool, timeout: Option<Duration>) -> Result<()> {
    let mut holders = holders();
    holders.inits = if force {
        FORCED.fetch_add(1, Ordering::AcqRel);
        0
    } else {
        holders.inits.saturating_sub(1)
    };
    if holders.inits > 0 {
        return Ok(());
    }
    holders.held = None;
    holders.options = EngineOptions::default();
    // Also one that is stopping: a call after TIMEOUT waits on.
    let Some(engine) = holders.engine.upgrade() else {
        return Ok(());
    };
    let (models, sessions) = (
        engine.models.load(Ordering::Acquire),
        engine.sessions.load(Ordering::Acquire),
    );
    if !force && models > 0 && engine.is_alive() && !engine.is_stopping() {
        return Err(Error::new(
            Code::Busy,
            format!("{models} model(s) and {sessions} session(s) are still open; the engine ends with the last of them"),
        ));
    }
    engine.stopping.store(true, Ordering::Release);
    drop(holders);
    engine.stop(timeout)
}

/// Ends the engine while the process exits, as far as that is possible from here and now.
pub(super) fn end_at_exit(timeout: Duration) {
    let deadline = Instant::now() + timeout;
    let engine = loop {
        // Its owner may be the thread that calls exit.
        if let Ok(holders) = HOLDERS.try_lock() {
            break holders.engine.upgrade();
        }
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if let Some(engine) = engine {
        engine.send_stop();
        // Not dropped: that would wait without a limit.
        std::mem::forget(engine);
    }
    // Also for an engine whose last holder is just letting go of it.
    Thread::join_all(deadline);
}

/// The running engine, or a new one, for a model that is to be loaded.
pub fn acquire() -> Result<Hold> {
    // Counted under the lock: a shutdown sees it, or came before.
    let mut holders = holders();
    holders.refuse_when_suspended()?;
    let engine = holders.start()?;
    engine.models.fetch_add(1, Ordering::AcqRel);
    Ok(Hold(engine))
}

/// The running engine, if there is one.
pub fn current() -> Option<Arc<Engine>> {
    holders().running()
}

/// Makes MLX's functions safe to call before any engine runs.
pub fn prepare() {
    mlx::install_error_handler();
}

/// The highest use of MLX's memory since the process started, in bytes.
pub fn peak_bytes() -> u64 {
    PAST_PEAK.load(Ordering::Relaxed).max(memory::peak())
}

/// Starts a new measurement of the peak and keeps the old one for `peak_bytes`.
pub(super) fn reset_peak() {
    PAST_PEAK.fetch_max(memory::peak(), Ordering::Relaxed);
    memory::reset_peak();
}

static PAST_PEAK: AtomicU64 = AtomicU64::new(0);

/// The device that runs, or would, as `mlxrt_device_info` tells it.
pub fn device_json() -> Result<String> {
    prepare();
    let engine = current();
    let device = match &engine {
        Some(engine) => engine.device,
        None => choose_device(None)?,
    };
    let devices: Vec<_> = [Device::Cpu, Device::Gpu]
        .into_iter()
        .filter(|&device| mlx::device_available(device))
        .map(Device::name)
        .collect();
    let mut json = serde_json::json!({
        "device": device.name(),
        "devices": devices,
        "mlx_version": mlx::version()?,
        "info": mlx::device_info(device)?,
    });
    if uses_kernels(device) {
        json["kernels"] = serde_json::json!({
            "path": kernels::Path::best().name(),
            "features": kernels::features().names(),
            "threads": engine.map_or_else(kernels::physical_cores, |engine| engine.threads),
        });
    }
    Ok(json.to_string())
}

impl Engine {
    fn start(options: EngineOptions, limits: MemoryLimits) -> Result<Arc<Engine>> {
        host::refuse_at_exit()?;
        let _room = crate::room::hold_for(START, "the engine")?;
        mlx::install_error_handler();
        mlx::refuse_other_version()?;
        if let Some(dir) = &options.resource_dir {
            mlx::set_resource_dir(dir)?;
        }
        let device = choose_device(options.device)?;
        let limits = options.limits.or(limits);
        apply_limits(&MemoryLimits {
            wired: limits.wired.or_else(|| recommended_wired_limit(device)),
            ..limits
        })?;
        let (commands, receiver) = channel();
        let alive = Arc::new(AtomicBool::new(true));
        let (ready, started) = channel();
        let flag = alive.clone();
        let threads = options.cpu_threads.unwrap_or_else(kernels::physical_cores);
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .stack_size(STACK)
            .spawn(move || {
                // Whatever happens on this thread prints nothing and ends here.
                let _ = crate::guard::catch(|| {
                    ENGINE_THREAD.set(true);
                    let entered = mlx::enter(device).and_then(|()| mlx::warm_up());
                    exit::watch();
                    if uses_kernels(device) {
                        mlx::fast::start(kernels_on(threads));
                    }
                    let failed = entered.is_err();
                    let _ = ready.send(entered);
                    if !failed {
                        Worker::new(device, receiver, Alive(flag)).run();
                    }
                    Ok(())
                });
                mlx::leave();
            })
            .map_err(|error| {
                Error::new(
                    Code::Resources,
                    format!("the engine thread cannot be started: {error}"),
                )
            })?;
        let thread = Thread::watched(thread);
        started
            .recv()
            .unwrap_or_else(|_| Err(Error::internal("the engine thread ended while it started")))?;
        Ok(Arc::new(Engine {
            commands,
            device,
            threads,
            alive,
            thread,
            next_id: AtomicU64::new(1),
            models: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }))
    }

    #[cfg(test)]
    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Errors: `Cancelled`, when its thread has ended or is about to.
    pub(super) fn refuse_when_ending(&self) -> Result<()> {
        match self.is_alive() && !self.is_stopping() {
            true => Ok(()),
            false => Err(ended()),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Numbers for models, sessions and requests; never 0, never twice.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| ended())
    }

    /// Hands a request over. One that comes too late ends as cancelled, and only its caller hears of it.
    pub(super) fn start_job(&self, job: Box<Job>) -> Result<()> {
        self.commands
            .send(Command::Start(job))
            .map_err(|SendError(command)| {
                if let Command::Start(job) = command {
                    job.request.refuse();
                }
                ended()
            })
    }

    /// Runs `work` on the engine thread and waits for what it gives.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.answer(self.ask(work)?)
    }

    /// As `call`, without waiting: `answer` does.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Result<Receiver<Result<T>>> {
        let (reply, answer) = channel();
        self.send(Command::Do(Box::new(move |worker| {
            let _ = reply.send(work(worker));
        })))?;
        Ok(answer)
    }

    /// Waits for what `ask` asked for.
    pub(super) fn answer<T>(&self, answer: Receiver<Result<T>>) -> Result<T> {
        answer.recv().unwrap_or_else(|_| {
            Err(if self.is_alive() {
                Error::internal("the engine failed inside this call")
            } else {
                ended()
            })
        })
    }

    /// Ends the thread, which ends every request as cancelled, and waits for it.
    fn stop(&self, timeout: Option<Duration>) -> Result<()> {
        self.send_stop();
        self.thread
            .join(timeout.map(|timeout| Instant::now() + timeout))
    }

    fn send_stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// Goes before everything else of the worker: whoever finds its own work dropped is told that the engine ended.
pub(super) struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A cancel in a log function of the engine thread may hold a session for a moment, and be the last that does. The
        // thread cannot wait for its own end.
        if on_engine_thread() {
            self.send_stop();
        } else {
            let _ = self.stop(None);
        }
    }
}

pub(super) fn ended() -> Error {
    Error::new(Code::Cancelled, "the engine was shut down")
}

/// The kernels, on threads whose panics go where those of the engine thread go.
fn kernels_on(threads: usize) -> Kernels {
    let pool = Pool::inside(threads, |work| {
        let _ = crate::guard::catch(|| {
            work();
            Ok(())
        });
    });
    Kernels::on(kernels::Path::best(), pool)
}

/// Whether the device's operations are ours. On macOS MLX's own are fast.
/// The device that runs, or would, and whether the CPU's kernels compute on it.
pub(super) fn device() -> Result<(Device, bool)> {
    prepare();
    let device = match current() {
        Some(engine) => engine.device,
        None => choose_device(None)?,
    };
    Ok((device, uses_kernels(device)))
}

fn uses_kernels(device: Device) -> bool {
    device == Device::Cpu && !cfg!(target_os = "macos")
}

fn choose_device(wanted: Option<Device>) -> Result<Device> {
    match wanted {
        Some(device) if mlx::device_available(device) => Ok(device),
        Some(device) => Err(Error::new(
            Code::Unsupported,
            format!("this MLX has no {} device on this machine", device.name()),
        )),
        None if mlx::device_available(Device::Gpu) => Ok(Device::Gpu),
        None => Ok(Device::Cpu),
    }
}

/// What Metal recommends to keep resident, as mlx-lm sets it; other devices name no such figure.
fn recommended_wired_limit(device: Device) -> Option<u64> {
    mlx::device_info(device)
        .ok()?
        .get("max_recommended_working_set_size")?
        .as_u64()
}

/// MLX's own memory limit, before anybody set one.
fn at_start() -> Result<u64> {
    static AT_START: OnceCell<u64> = OnceCell::new();
    AT_START.get_or_try_init(memory::try_limit).copied()
}

/// Sets MLX's limits; `None` is what MLX started with, also when an earlier engine had another.
fn apply_limits(limits: &MemoryLimits) -> Result<()> {
    memory::set_limit(limits.memory.unwrap_or(at_start()?))?;
    memory::set_cache_limit(limits.cache.unwrap_or(DEFAULT_CACHE_LIMIT))?;
    limits.wired.map(memory::set_wired_limit).transpose()?;
    set_prefix_limit(limits.cache);
    Ok(())
}
