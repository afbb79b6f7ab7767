use super::*;

fn numbers(value: &serde_json::Value) -> Vec<usize> {
    let list = value.as_array().unwrap();
    list.iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

#[test]
fn a_seed_stands_for_the_order_that_numpy_gives_it() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (seed, lists) in json["permutations"].as_object().unwrap() {
        let mut order = Order::new(seed.parse().unwrap());
        for list in lists.as_array().unwrap() {
            let wanted = numbers(list);
            assert_eq!(order.permutation(wanted.len() as u32), wanted, "{seed}");
        }
    }
    assert!(Order::new(0).permutation(0).is_empty());
}

fn sample(tokens: &[i32], prompt: usize, limit: usize) -> Sample {
    Sample::new(tokens.to_vec(), prompt, limit)
}

/// The one batch of two samples.
fn batch(samples: Vec<Sample>, limit: usize) -> Batch {
    let mut batches = Batches::new("train", samples, 2, limit).unwrap();
    batches.next(&mut Order::new(0)).unwrap()
}

#[test]
fn what_a_batch_trains() {
    let both = vec![sample(&[1, 2, 3, 4, 5], 3, 99), sample(&[6, 7, 8], 0, 99)];
    // The shorter one first. One token of padding is trained after each sample, as mlx-lm does.
    let wanted = Batch {
        inputs: vec![6, 7, 8, 0, 0, 1, 2, 3, 4, 5],
        rows: 2,
        width: 5,
        places: vec![0, 1, 2, 5 + 2, 5 + 3, 5 + 4],
        targets: vec![7, 8, 0, 4, 5, 0],
    };
    assert_eq!(batch(both, 99), wanted);
    // At the limit there is no room for padding: the last token is a target only.
    let cut = vec![sample(&[1, 2, 3, 4, 5], 3, 4), sample(&[6, 7, 8], 0, 4)];
    assert_eq!(cut.iter().filter(|s| s.is_truncated()).count(), 1);
    let wanted = Batch {
        inputs: vec![6, 7, 8, 1, 2, 3],
        rows: 2,
        width: 3,
        places: vec![0, 1, 2, 3 + 2],
        targets: vec![7, 8, 0, 4],
    };
    assert_eq!(batch(cut, 4), wanted);
}

#[test]
fn batches_are_of_like_lengths_and_each_comes_once_a_round() {
    let samples = (0..7i32)
        .rev()
        .map(|n| sample(&vec![n + 1; n as usize + 2], 0, 99));
    let mut batches = Batches::new("train", samples.collect(), 2, 99).unwrap();
    assert_eq!((batches.count(), batches.truncated()), (3, 0));
    let mut order = Order::new(3);
    for _ in 0..4 {
        let mut firsts: Vec<i32> = (0..3)
            .map(|_| batches.next(&mut order).unwrap().inputs[0])
            .collect();
        firsts.sort();
        assert_eq!(firsts, [1, 3, 5]);
    }
}

#[test]
fn data_that_makes_no_batch() {
    let error = |samples, size| match Batches::new("valid", samples, size, 4) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.message,
    };
    assert_eq!(error(vec![], 1), "valid has no samples");
    let one = sample(&[1, 2, 3], 0, 4);
    assert_eq!(
        error(vec![one.clone()], 2),
        "valid has 1 samples, and batch_size is 2"
    );
    // A prompt that fills the limit leaves nothing to train.
    let idle = sample(&[1, 2, 3, 4, 5, 6], 4, 4);
    assert!(error(vec![one, idle], 2).contains("besides 1 whose prompts fill max_tokens (4)"));
}

#[test]
fn learning_rates() {
    let rates = |shape, warmup| {
        let schedule = Schedule {
            shape,
            rate: 0.5,
            warmup,
            updates: 4 + warmup,
        };
        (0..7 + warmup)
            .map(|index| schedule.at(index))
            .collect::<Vec<_>>()
    };
    assert_eq!(rates(Shape::Constant, 0), [0.5; 7]);
    assert_eq!(
        rates(Shape::Linear, 0),
        [0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0]
    );
    assert_eq!(rates(Shape::Linear, 2)[..5], [0.0, 0.25, 0.5, 0.5, 0.375]);
    let cosine = rates(Shape::Cosine, 0);
    assert!((cosine[1] - 0.426_776_7).abs() < 1e-6 && (cosine[2] - 0.25).abs() < 1e-6);
    assert_eq!((cosine[0], cosine[4], cosine[6]), (0.5, 0.0, 0.0));
}
