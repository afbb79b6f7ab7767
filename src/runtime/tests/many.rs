//! Several requests at once: what each gives is what it gives alone.

use super::adapters::adapter;
use super::recovery::fail_turns;
use super::*;
use crate::error::Code;
use crate::mlx::fault::{Kind, Lasting};
use crate::runtime::engine::{set_limits, trim, MemoryLimits, Trim};
use crate::runtime::options::Setting;
use crate::runtime::request::Request;
use crate::runtime::worker::Worker;

/// Tokens of a prompt that no other number has.
pub(super) fn tokens(number: usize, length: usize) -> Vec<i32> {
    let token = |at: usize| ((at * 37 + number * 11) % 90 + 3) as i32;
    (0..length).map(token).collect()
}

pub(super) struct Asked {
    pub input: Input,
    pub options: GenerateOptions,
    adapters: Vec<(Arc<crate::runtime::adapter::Adapter>, f32)>,
    pub session: SessionOptions,
}

impl Asked {
    fn new(number: usize, length: usize, options: GenerateOptions) -> Asked {
        Asked {
            input: Input::Tokens(tokens(number, length)),
            options,
            adapters: Vec::new(),
            session: SessionOptions::default(),
        }
    }

    pub(super) fn session(&self, model: &Arc<Model>) -> Session {
        let session = Session::new(model.clone(), self.session).unwrap();
        session.apply(self.adapters.clone()).unwrap();
        session
    }

    fn alone(&self, model: &Arc<Model>) -> Vec<i32> {
        let given = run(&self.session(model), &self.input, &self.options);
        given.result.unwrap();
        given.tokens
    }

    fn submit(&self, model: &Arc<Model>) -> Together {
        self.submit_on(Arc::new(self.session(model)))
    }

    fn submit_on(&self, session: Arc<Session>) -> Together {
        let request = submit(session.clone(), &self.input, &self.options, None).unwrap();
        Together { session, request }
    }
}

struct Together {
    session: Arc<Session>,
    request: Request,
}

impl Together {
    fn end(self) -> (Vec<i32>, Report, Result<()>) {
        let (report, outcome) = self.request.result(None).unwrap();
        let all = self.session.tokens().unwrap();
        let generated = report.generated_tokens as usize;
        (all[all.len() - generated..].to_vec(), report, outcome)
    }
}

/// The largest pass since it was last asked for.
fn largest(model: &Model) -> usize {
    let take = |worker: &mut Worker| Ok(std::mem::take(&mut worker.trace.largest));
    model.engine.call(take).unwrap()
}

/// Submits all of them while the engine is held back, so that they are there together.
fn submit_all(model: &Arc<Model>, asked: &[Asked]) -> Vec<Together> {
    let (go, held) = std::sync::mpsc::channel::<()>();
    let holding = model.clone();
    let hold = move || holding.engine.call(move |_| Ok(held.recv().is_ok()));
    let holder = std::thread::spawn(hold);
    let together = asked.iter().map(|asked| asked.submit(model)).collect();
    go.send(()).unwrap();
    holder.join().unwrap().unwrap();
    together
}

/// All at once give what each gives alone; how large the largest pass was.
pub(super) fn same_as_alone(model: &Arc<Model>, asked: &[Asked], what: &str) -> usize {
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(model)).collect();
    largest(model);
    let together = submit_all(model, asked);
    for (number, (together, alone)) in together.into_iter().zip(alone).enumerate() {
        let (tokens, _, outcome) = together.end();
        outcome.unwrap();
        assert_eq!(tokens, alone, "{what}: request {number}");
    }
    largest(model)
}

pub(super) fn several(lengths: &[usize], n: u64) -> Vec<Asked> {
    let numbered = lengths.iter().enumerate();
    let seeded = |number: usize| GenerateOptions {
        greedy: number.is_multiple_of(2),
        temperature: Some(1.0),
        seed: number as u64 + 1,
        ..computed_anew(n)
    };
    numbered
        .map(|(number, &length)| Asked::new(number, length, seeded(number)))
        .collect()
}

#[test]
fn every_model_gives_together_what_it_gives_alone() {
    let _lock = engine_lock();
    let folder = parity::fixtures().join("models");
    let mut tried = 0;
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let model = Arc::new(match load_folder(&path, None) {
            Ok(model) => model,
            Err(error) => panic!("{name}: {error}"),
        });
        if model.both_ways {
            continue;
        }
        for plain in [false, true] {
            let plainly = move |_: &mut Worker| {
                crate::model::fused::COUNT.set((!plain).then_some(0));
                Ok(())
            };
            model.engine.call(plainly).unwrap();
            // (Windows turn, and prompts come in more than one chunk.)
            let asked = several(&[5, 1, 40, 17], 14);
            let pass = same_as_alone(&model, &asked, &format!("{name}, plainly: {plain}"));
            assert!(pass > 1, "{name}: nobody shared a pass");
            tried += 1;
        }
        let fused = |_: &mut Worker| {
            crate::model::fused::COUNT.set(Some(0));
            Ok(())
        };
        model.engine.call(fused).unwrap();
    }
    assert!(tried > 200, "only {tried} models were tried");
}

/// As on a GPU: passes are queued before the tokens are read that go into them.
#[test]
fn running_ahead_gives_the_same() {
    let _lock = engine_lock();
    let ahead = |model: &Model, ahead: bool| {
        let set = move |worker: &mut Worker| {
            worker.reads_first = !ahead;
            Ok(())
        };
        model.engine.call(set).unwrap();
    };
    for name in [
        "qwen3-4bit",
        "llama-f32",
        "gemma3-text-f32",
        "qwen3_5-f32",
        "deepseek_v3-f32",
        "phi3-f32-longrope",
    ] {
        let model = load(name);
        let mut asked = several(&[5, 1, 40, 17, 30], 30);
        asked[1].options.max_tokens = Some(9);
        asked[2].options.repetition_penalty = Some(1.3);
        asked[3].options.logprobs = Some(2);
        asked[4].options.drafts = crate::runtime::options::Drafts::Most(4);
        let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
        ahead(&model, true);
        let pass = same_as_alone(&model, &asked, name);
        let again: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
        ahead(&model, false);
        assert_eq!(again, alone, "{name}");
        assert!(pass > 2, "{name}: {pass} shared a pass");
    }
}

/// Sessions that keep what others do not: windows of their own, packed keys.
#[test]
fn sessions_of_all_kinds_share_a_pass() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let kinds = [
        SessionOptions::default(),
        SessionOptions {
            window: 24,
            keep: 4,
            ..SessionOptions::default()
        },
        SessionOptions {
            window: 16,
            keep: -1,
            ..SessionOptions::default()
        },
        SessionOptions {
            kv_bits: 8,
            kv_group_size: 32,
            ..SessionOptions::default()
        },
        SessionOptions {
            kv_bits: 4,
            kv_group_size: 32,
            ..SessionOptions::default()
        },
    ];
    let mut asked = several(&[30, 9, 50, 3, 12, 1, 33, 8, 21], 30);
    for (asked, kind) in asked.iter_mut().zip(kinds.iter().cycle()) {
        asked.session = *kind;
    }
    assert!(same_as_alone(&model, &asked, "kinds") >= 8);
}

/// Base products are made of all rows, and what adapters add of their own.
#[test]
fn sessions_with_different_adapters_share_a_pass() {
    let _lock = engine_lock();
    for name in ["qwen3-4bit", "llama-f32", "qwen3_5-f32", "gemma3n-f32"] {
        let model = load(name);
        let lora = [7, 8].map(|seed| adapter(&model, seed, false));
        let dora = adapter(&model, 9, true);
        let sets = [
            vec![],
            vec![(lora[0].clone(), 1.0)],
            vec![(lora[1].clone(), 0.5)],
            vec![(lora[0].clone(), 1.0)],
            vec![(lora[0].clone(), 1.0), (lora[1].clone(), 2.0)],
        ];
        let with_dora = [sets.as_slice(), &[vec![(dora, 1.0)]]].concat();
        for sets in [&sets[..], &with_dora] {
            let mut asked = several(&[5, 12, 30, 2, 9, 20], 12);
            asked.truncate(sets.len());
            for (asked, set) in asked.iter_mut().zip(sets) {
                asked.adapters = set.clone();
            }
            let base = asked[0].alone(&model);
            let mut other = Asked::new(0, 5, asked[0].options.clone());
            other.adapters = sets[1].clone();
            assert_ne!(
                other.alone(&model),
                base,
                "{name}: an adapter that says nothing"
            );
            let pass = same_as_alone(&model, &asked, name);
            assert!(pass >= sets.len() - 1, "{name}: {pass} shared a pass");
        }
    }
}

/// Penalties, biases, log-probabilities and ends of all kinds.
#[test]
fn what_requests_ask_for_is_theirs() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let mut asked = several(&[5, 6, 7, 8, 9, 10], 40);
    asked[0].options.repetition_penalty = Some(1.4);
    asked[1].options.bias = vec![(9, 4.0), (11, f32::NEG_INFINITY)];
    asked[2].options.logprobs = Some(3);
    asked[3].options.max_tokens = Some(3);
    asked[4].options.presence_penalty = 0.7;
    asked[5].options.top_k = Setting::Value(5);
    let stop = asked[5].alone(&model)[20];
    asked[5].options.stop_tokens = vec![stop];
    assert!(same_as_alone(&model, &asked, "options") >= 5);
}

/// A request that always fails ends with its error, and those that shared its passes go on as if it had not been.
#[test]
fn an_error_in_a_pass_stays_with_whose_it_is() {
    let _lock = engine_lock();
    let model = load("qwen3-4bit");
    let asked = several(&[5, 30, 9, 17], 30);
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
    for kind in [Kind::Call, Kind::Evaluation] {
        for number in [1, 2, 5, 9] {
            largest(&model);
            let sessions = asked.iter().map(|asked| Arc::new(asked.session(&model)));
            let sessions: Vec<_> = sessions.collect();
            let lasting = Lasting {
                model: model.id,
                session: Some(sessions[1].cache.session),
                kind,
                number,
            };
            fail_turns(&model, Some(lasting));
            let asked = asked.iter().zip(sessions);
            let together: Vec<_> = asked
                .map(|(asked, session)| asked.submit_on(session))
                .collect();
            for (at, (together, alone)) in together.into_iter().zip(&alone).enumerate() {
                let (tokens, report, outcome) = together.end();
                match outcome {
                    Ok(()) => assert_eq!(&tokens, alone, "{kind:?} {number}: request {at}"),
                    Err(error) => {
                        assert_eq!((at, error.code), (1, Code::Device), "{kind:?} {number}");
                        assert_eq!(report.error_code, Code::Device as i32);
                    }
                }
            }
            let struck = fail_turns(&model, None);
            assert!(struck > 0, "{kind:?} {number}: nothing failed");
        }
    }
}

/// A cancel of one ends it, and nothing else.
#[test]
fn who_leaves_a_pass_does_not_disturb_it() {
    let _lock = engine_lock();
    let model = load("llama-f32");
    let asked = several(&[5, 30, 9, 17, 3], 50);
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
    for round in 0..10 {
        let mut together: Vec<_> = asked.iter().map(|asked| asked.submit(&model)).collect();
        let leaves = round % asked.len();
        for _ in 0..round {
            let _ = together[leaves].request.next(None);
        }
        together[leaves].request.cancel();
        // Who comes in the middle is no trouble either.
        let late = asked[leaves].submit(&model);
        together.push(late);
        for (at, together) in together.into_iter().enumerate() {
            let wanted = alone.get(at).unwrap_or(&alone[leaves]);
            let (tokens, _, outcome) = together.end();
            outcome.unwrap();
            match at == leaves {
                true => assert!(wanted.starts_with(&tokens)),
                false => assert_eq!(&tokens, wanted, "round {round}: request {at}"),
            }
        }
    }
}

/// Sets the limit of memory that was.
struct Restore(u64);

impl Drop for Restore {
    fn drop(&mut self) {
        let limits = MemoryLimits {
            memory: Some(self.0),
            ..MemoryLimits::default()
        };
        set_limits(limits).unwrap();
    }
}

/// Where memory is there for some of them only, the others wait, and nobody fails.
#[test]
fn who_has_no_memory_waits_for_who_has() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let asked = several(&[60, 50, 70, 40, 55, 65], 60);
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
    let _restore = Restore(crate::mlx::memory::limit());
    let limit = |memory| {
        let limits = MemoryLimits {
            memory: Some(memory),
            ..MemoryLimits::default()
        };
        set_limits(limits).unwrap();
    };
    trim(Trim::Buffers).unwrap();
    let used = crate::mlx::memory::active();
    // The least that each of them can do with, alone.
    let enough = |more: u64| {
        limit(used + more);
        let longest = &asked[2];
        let given = run(&longest.session(&model), &longest.input, &longest.options);
        given.result.is_ok()
    };
    let least = (1..).map(|step| step * 20_000).find(|&more| enough(more));
    for (share, fits) in [(1.0, 1), (3.0, 2)] {
        limit(used + (least.unwrap() as f64 * share) as u64);
        largest(&model);
        let together = submit_all(&model, &asked);
        for (number, (together, alone)) in together.into_iter().zip(&alone).enumerate() {
            let (tokens, _, outcome) = together.end();
            outcome.unwrap();
            assert_eq!(&tokens, alone, "{share}: request {number}");
        }
        let largest = largest(&model);
        assert!(
            largest >= fits && largest < asked.len(),
            "{share}: {largest}"
        );
    }
    // What fits nobody is an error still, of each.
    limit(used + least.unwrap() / 3);
    let together = submit_all(&model, &asked);
    for together in together {
        let (_, report, outcome) = together.end();
        assert_eq!(outcome.unwrap_err().code, Code::OutOfMemory);
        assert_eq!(report.generated_tokens, 0);
    }
}

/// Priorities say who goes first, and change no token.
#[test]
fn the_higher_goes_first_and_nobody_starves() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let mut asked = several(&[60, 60, 60], 60);
    for (asked, priority) in asked.iter_mut().zip([i32::MIN, 0, i32::MAX]) {
        asked.options.priority = priority;
    }
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&model)).collect();
    let together = submit_all(&model, &asked);
    let mut ends = Vec::new();
    for (together, alone) in together.into_iter().zip(&alone) {
        let (tokens, report, outcome) = together.end();
        outcome.unwrap();
        assert_eq!(&tokens, alone);
        ends.push(report);
    }
    // Each began when the one above it had ended, unless the machine was so slow that it had waited too long.
    for pair in ends.windows(2) {
        let [low, high] = pair else { unreachable!() };
        let waited = low.queue_ns;
        let second = 1_000_000_000;
        assert!(
            waited + 5_000_000 >= high.total_ns || waited >= second,
            "the lower one waited {waited} ns, and the higher one took {}",
            high.total_ns
        );
    }
}

/// Beside others that never pause it gets a turn a second.
#[test]
fn the_lowest_comes_to_an_end() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let busy = |number: usize| {
        // (They do not end together.)
        let mut asked = Asked::new(number, 4, computed_anew(40 + 20 * (number as u64 % 3)));
        asked.options.priority = i32::MAX;
        asked.submit(&model)
    };
    let mut low = Asked::new(6, 40, computed_anew(2));
    low.options.priority = i32::MIN;
    let alone = low.alone(&model);
    let mut running = std::collections::VecDeque::from([busy(0), busy(1), busy(2)]);
    let low = low.submit(&model);
    let begun = std::time::Instant::now();
    let mut rounds = 3;
    while low.request.result(Some(std::time::Duration::ZERO)).is_err() {
        assert!(begun.elapsed().as_secs() < 60, "it starved");
        // Two are always there.
        running.pop_front().unwrap().end().2.unwrap();
        running.push_back(busy(rounds));
        rounds += 1;
    }
    let (tokens, _, outcome) = low.end();
    outcome.unwrap();
    assert_eq!(tokens, alone);
}
