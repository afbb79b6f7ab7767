//! Products with experts: each row of the result takes one row of x and the weights of one expert. Rows that go to one expert
//! share the reading of its weights; all experts' products are one job of the pool, cut into panels of their outputs.

use super::activations::{digits_for, tiles, Digits};
use super::experts::{ByExpert, ExpertMatrix, One, Route};
use super::float::{Floats, FloatsMut};
use super::layout::RUN;
use super::qmatmul::{ROWS_OF_A_READING, TILE};
use super::rows_of::To;
#[cfg(target_arch = "x86_64")]
use super::scratch::Buffer;
use super::scratch::Lent;
use super::{dense, fp8, qmatmul, Kernels};
use std::ops::Range;

/// Rows made ready.
enum Ready<'a> {
    Digits(Lent<'a, Digits>),
    /// `[rows, inputs]`
    Wide(Lent<'a, Vec<f32>>),
}

/// Some rows of one expert that share one reading of its weights.
struct Piece {
    expert: usize,
    /// Of `ByExpert::order`.
    rows: Range<usize>,
    /// Of those made ready.
    first: usize,
}

/// Bytes of rows that are made ready at once.
const READY: usize = 8 << 20;
/// Bytes of the rows of one piece: they stay in a core's second cache.
const CACHED: usize = 256 << 10;

impl Kernels {
    /// `y[i] = x[routes[i].row] Wᵀ` with the weights of `routes[i].expert`: x `[rows, inputs]`, y `[routes, outputs]`.
    /// What a route gives is what the product of its row alone would give.
    ///
    /// False, and nothing written, where a row or an expert does not exist. Panics where the shapes do not fit.
    #[must_use]
    pub fn expert_matmul(
        &self,
        x: &Floats,
        experts: &ExpertMatrix,
        routes: &[Route],
        y: &mut FloatsMut,
    ) -> bool {
        check(x, experts, routes.len(), y);
        let count = experts.count();
        let known =
            |route: &Route| (route.row as usize) < x.rows() && (route.expert as usize) < count;
        if !routes.iter().all(known) {
            return false;
        }
        let by_expert = ByExpert::new(routes.iter().map(|route| route.expert), count);
        let row = |route: u32| routes[route as usize].row as usize;
        self.expert_matmuls(x, row, &by_expert, &[*experts], std::slice::from_mut(y));
        true
    }

    /// The same for several matrices of the same inputs: row i of each y is made of row `row(i)` of x.
    pub(super) fn expert_matmuls(
        &self,
        x: &Floats,
        row: impl Fn(u32) -> usize + Sync,
        by_expert: &ByExpert,
        matrices: &[ExpertMatrix],
        y: &mut [FloatsMut],
    ) {
        for (matrix, y) in matrices.iter().zip(&*y) {
            check(x, matrix, by_expert.order.len(), y);
        }
        let alike = matrices
            .windows(2)
            .all(|two| two[0].takes_the_same(&two[1]));
        if alike {
            self.one_pass(x, &row, by_expert, matrices, y);
        } else {
            for (matrix, y) in matrices.iter().zip(y) {
                let (matrix, y) = (std::slice::from_ref(matrix), std::slice::from_mut(y));
                self.one_pass(x, &row, by_expert, matrix, y);
            }
        }
    }

    /// Matrices for which rows are made ready alike.
    fn one_pass(
        &self,
        x: &Floats,
        row: &(impl Fn(u32) -> usize + Sync),
        by_expert: &ByExpert,
        matrices: &[ExpertMatrix],
        y: &mut [FloatsMut],
    ) {
        let Some(kind) = matrices.first() else {
            return;
        };
        let layout = kind.takes_digits();
        let row_bytes = match &layout {
            Some(layout) => layout.runs() * RUN * digits_for(x.dtype()),
            None => 4 * x.width(),
        };
        let at_once = (CACHED / row_bytes.max(1)).max(TILE) / TILE * TILE;
        let at_most = (READY / row_bytes.max(1)).max(at_once);
        // One row, and all want it: it is made ready once.
        let shared = x.rows() == 1 && by_expert.segments.iter().all(|(_, rows)| rows.len() == 1);
        let mut pieces: Vec<Piece> = Vec::with_capacity(by_expert.segments.len());
        let mut ready = 0;
        for (expert, segment) in &by_expert.segments {
            #[cfg(target_arch = "x86_64")]
            if self.on_tiles(x, row, by_expert, (*expert, segment), matrices, y) {
                continue;
            }
            // Pieces of about the same size, of whole tiles.
            let count = segment.len().div_ceil(at_once);
            let size = segment.len().div_ceil(count.max(1)).next_multiple_of(TILE);
            let mut start = segment.start;
            while start < segment.end {
                let end = segment.end.min(start + size);
                if ready + (end - start) > at_most {
                    self.pieces(x, row, by_expert, &pieces, matrices, y);
                    pieces.clear();
                    ready = 0;
                }
                pieces.push(Piece {
                    expert: *expert,
                    rows: start..end,
                    first: if shared { 0 } else { ready },
                });
                ready += end - start;
                start = end;
            }
        }
        self.pieces(x, row, by_expert, &pieces, matrices, y);
    }

    fn pieces(
        &self,
        x: &Floats,
        row: &(impl Fn(u32) -> usize + Sync),
        by_expert: &ByExpert,
        pieces: &[Piece],
        matrices: &[ExpertMatrix],
        y: &[FloatsMut],
    ) {
        let (Some(last), Some(kind)) = (pieces.last(), matrices.first()) else {
            return;
        };
        // Where each row that is made ready comes from, and the tiles that they are in.
        let rows = last.first + last.rows.len();
        let mut sources = Vec::with_capacity(rows);
        let mut cut = Vec::with_capacity(pieces.len());
        let layout = kind.takes_digits();
        let most = layout.map_or(TILE, |_| self.tile_rows(digits_for(x.dtype())));
        for piece in pieces {
            // Ready already: all want the one row.
            if piece.first < sources.len() {
                continue;
            }
            cut.extend(tiles(piece.rows.len(), most).map(|(at, n)| (piece.first + at, n)));
            sources.extend(by_expert.order[piece.rows.clone()].iter().map(|&i| row(i)));
        }
        let ready = match layout {
            Some(layout) => {
                let mut digits = self.scratch.digits();
                digits.fill_tiles(self.path, &self.pool, &layout, x, &sources, &cut);
                Ready::Digits(digits)
            }
            None => Ready::Wide(self.widened_rows(x, sources.iter().copied())),
        };
        let jobs = self.jobs(pieces, matrices);
        self.pool.parallel(jobs.len(), |job| {
            let (piece, matrix, panels) = jobs[job].clone();
            let (piece, y) = (&pieces[piece], &y[matrix]);
            let to = To::Each(&by_expert.order[piece.rows.clone()]);
            match (matrices[matrix].one(piece.expert), &ready) {
                (One::Packed(weights), Ready::Digits(digits)) => {
                    let job = qmatmul::Job {
                        weights,
                        digits,
                        first: piece.first,
                        rows: piece.rows.len(),
                        y,
                        to,
                        most,
                        panels,
                    };
                    job.run(self.path);
                }
                (One::Packed(weights), Ready::Wide(wide)) => self.path.run(fp8::Panels {
                    weights,
                    x: &wide[piece.first * x.width()..],
                    rows: piece.rows.len(),
                    y,
                    to,
                    panels,
                }),
                (One::Dense(weights), Ready::Wide(wide)) => {
                    let wide = &wide[piece.first * x.width()..];
                    let rows = piece.rows.len();
                    dense::outputs(self.path, &weights, wide, rows, y, to, panels);
                }
                (One::Dense(_), Ready::Digits(_)) => unreachable!("rows were made f32"),
            }
        });
    }

    /// Piece, matrix and panels of each job: so many that threads that are held up hold up little.
    fn jobs(
        &self,
        pieces: &[Piece],
        matrices: &[ExpertMatrix],
    ) -> Vec<(usize, usize, Range<usize>)> {
        let threads = self.pool.threads();
        let each = (16 * threads).div_ceil(pieces.len() * matrices.len());
        let mut jobs = Vec::with_capacity(2 * each * pieces.len() * matrices.len());
        for (index, piece) in pieces.iter().enumerate() {
            for (matrix, weights) in matrices.iter().enumerate() {
                let (panels, bytes) = weights.panels();
                let mut chunks =
                    self.chunks(panels, bytes * piece.rows.len().div_ceil(ROWS_OF_A_READING));
                chunks.count = chunks.count.min(each);
                jobs.extend((0..chunks.count).map(|chunk| (index, matrix, chunks.range(chunk))));
            }
        }
        jobs
    }

    /// Many rows of one expert, where the processor's tiles are quicker; else false, and nothing done.
    #[cfg(target_arch = "x86_64")]
    fn on_tiles(
        &self,
        x: &Floats,
        row: &impl Fn(u32) -> usize,
        by_expert: &ByExpert,
        (expert, segment): (usize, &Range<usize>),
        matrices: &[ExpertMatrix],
        y: &mut [FloatsMut],
    ) -> bool {
        let rows = &by_expert.order[segment.clone()];
        let weights = |matrix: &ExpertMatrix| match matrix {
            ExpertMatrix::Packed { .. } => x.dtype(),
            ExpertMatrix::Dense { weights, .. } => weights.dtype(),
        };
        let pays = |matrix| self.tiles_pay(rows.len(), x.dtype(), weights(matrix));
        if !matrices.iter().all(pays) {
            return false;
        }
        let mut from = Buffer::new(&self.scratch, x.dtype(), rows.len(), x.width());
        for (index, &route) in rows.iter().enumerate() {
            let bytes = x.row_bytes(row(route));
            from.floats_mut()
                .row_bytes_mut(index)
                .copy_from_slice(bytes);
        }
        for (matrix, y) in matrices.iter().zip(y) {
            let mut to = Buffer::new(&self.scratch, y.dtype(), rows.len(), y.width());
            match matrix.one(expert) {
                One::Packed(weights) => {
                    self.quantized_matmul(&from.floats(), &weights, &mut to.floats_mut());
                }
                One::Dense(weights) => {
                    self.matmul(&from.floats(), &weights, &mut to.floats_mut());
                }
            }
            for (index, &route) in rows.iter().enumerate() {
                let bytes = to.floats().row_bytes(index);
                y.row_bytes_mut(route as usize).copy_from_slice(bytes);
            }
        }
        true
    }
}

fn check(x: &Floats, experts: &ExpertMatrix, routes: usize, y: &FloatsMut) {
    let (outputs, inputs) = experts.shape();
    assert!(
        x.width() == inputs && y.width() == outputs && y.rows() == routes,
        "expert_matmul: [{}, {}] by [{outputs}, {inputs}] to [{}, {}] for {routes} routes",
        x.rows(),
        x.width(),
        y.rows(),
        y.width(),
    );
}
