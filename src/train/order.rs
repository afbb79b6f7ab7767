//! The order of batches that a seed stands for: numpy's `random.permutation`, which mlx-lm draws them with.

/// The Mersenne twister MT19937.
pub struct Order {
    state: [u32; N],
    next: usize,
}

const N: usize = 624;
const M: usize = 397;

impl Order {
    /// As `numpy.random.seed` for seeds below 2^32; the others, which numpy has none for, are folded.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; N];
        let mut last = (seed ^ (seed >> 32)) as u32;
        for (index, word) in state.iter_mut().enumerate() {
            if index > 0 {
                last = (last ^ (last >> 30))
                    .wrapping_mul(1_812_433_253)
                    .wrapping_add(index as u32);
            }
            *word = last;
        }
        Order { state, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let bits = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (bits >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// From 0 up to and with `most`.
    fn at_most(&mut self, most: u32) -> u32 {
        if most == 0 {
            return 0;
        }
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let drawn = self.word() & mask;
            if drawn <= most {
                return drawn;
            }
        }
    }

    /// The numbers below `n`, shuffled.
    pub fn permutation(&mut self, n: u32) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..n as usize).collect();
        for last in (1..n).rev() {
            let other = self.at_most(last);
            numbers.swap(last as usize, other as usize);
        }
        numbers
    }
}
