//! Curves of losses: what the terminal's and the picture's have in common, and the terminal's, in braille.

/// A point: the step and the loss.
pub type Point = (f64, f64);

pub struct Losses {
    pub train: Vec<Point>,
    pub valid: Vec<Point>,
}

/// What the axes show: the first and last step, the lowest and highest loss with a little room.
pub struct Range {
    pub x: (f64, f64),
    pub y: (f64, f64),
}

impl Losses {
    /// None when there is nothing to draw.
    pub fn range(&self) -> Option<Range> {
        let points = || {
            self.train
                .iter()
                .chain(&self.valid)
                .filter(|p| p.1.is_finite())
        };
        let (first_x, first_y) = *points().next()?;
        let mut range = Range {
            x: (first_x, first_x),
            y: (first_y, first_y),
        };
        for (x, y) in points() {
            range.x = (range.x.0.min(*x), range.x.1.max(*x));
            range.y = (range.y.0.min(*y), range.y.1.max(*y));
        }
        let room = ((range.y.1 - range.y.0) * 0.05).max(1e-3);
        range.y = (range.y.0 - room, range.y.1 + room);
        if range.x.0 == range.x.1 {
            range.x.1 += 1.0;
        }
        Some(range)
    }

    /// The training's losses as at most `count` points, each the mean of those that it stands for.
    pub fn thinned(&self, count: usize) -> Vec<Point> {
        let size = self.train.len().div_ceil(count.max(1)).max(1);
        self.train
            .chunks(size)
            .map(|chunk| {
                let of = chunk.len() as f64;
                (
                    chunk.iter().map(|p| p.0).sum::<f64>() / of,
                    chunk.iter().map(|p| p.1).sum::<f64>() / of,
                )
            })
            .collect()
    }
}

/// Where `value` lies between the ends of `range`, 0 to 1.
pub fn share(value: f64, range: (f64, f64)) -> f64 {
    ((value - range.0) / (range.1 - range.0)).clamp(0.0, 1.0)
}

/// The curve as lines of text, `width` by `height` characters and its axes; validations are marked "o".
pub fn draw(losses: &Losses, width: usize, height: usize) -> Option<String> {
    let range = losses.range()?;
    // A character of braille has 2 by 4 dots.
    let (columns, rows) = (width * 2, height * 4);
    let mut dots = vec![0u8; width * height];
    let place = |(x, y): Point| {
        let column = (share(x, range.x) * (columns - 1) as f64).round() as usize;
        let row = ((1.0 - share(y, range.y)) * (rows - 1) as f64).round() as usize;
        (column, row)
    };
    let mut before: Option<(usize, usize)> = None;
    for point in losses
        .thinned(columns)
        .into_iter()
        .filter(|p| p.1.is_finite())
    {
        let (column, row) = place(point);
        let (from_column, from_row) = before.unwrap_or((column, row));
        let steps = column
            .abs_diff(from_column)
            .max(row.abs_diff(from_row))
            .max(1);
        for step in 0..=steps {
            let between = |from: usize, to: usize| {
                let part = step as f64 / steps as f64;
                (from as f64 + (to as f64 - from as f64) * part).round() as usize
            };
            let (column, row) = (between(from_column, column), between(from_row, row));
            dots[row / 4 * width + column / 2] |= bit(column % 2, row % 4);
        }
        before = Some((column, row));
    }
    let mut cells: Vec<char> = dots
        .into_iter()
        .map(|dots| match dots {
            0 => ' ',
            dots => char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '),
        })
        .collect();
    for point in losses.valid.iter().filter(|p| p.1.is_finite()) {
        let (column, row) = place(*point);
        cells[row / 4 * width + column / 2] = 'o';
    }
    let mut text = String::new();
    for (row, line) in cells.chunks(width).enumerate() {
        let label = match row {
            0 => format!("{:8.3}", range.y.1),
            _ if row + 1 == height => format!("{:8.3}", range.y.0),
            _ => " ".repeat(8),
        };
        let line: String = line.iter().collect();
        text.push_str(&format!("{label} │{}\n", line.trim_end()));
    }
    text.push_str(&format!("{:8} └{}\n", "loss", "─".repeat(width)));
    let (first, last) = (format!("{}", range.x.0), format!("step {}", range.x.1));
    text.push_str(&format!(
        "{:10}{first}{last:>1$}\n",
        "",
        width.saturating_sub(first.len())
    ));
    Some(text)
}

/// The dots of a character of braille go down its left half, then its right one; the last row came later.
fn bit(column: usize, row: usize) -> u8 {
    [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]][column][row]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_falls() {
        let losses = Losses {
            train: (1..=100)
                .map(|step| (f64::from(step), 4.0 - f64::from(step) / 50.0))
                .collect(),
            valid: vec![(1.0, 4.0), (100.0, 2.2)],
        };
        let text = draw(&losses, 40, 8).unwrap();
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        assert_eq!(lines.len(), 10);
        let dots = |line: &[char]| -> Vec<usize> {
            (10..line.len())
                .filter(|at| line[*at] as u32 > 0x2800 && line[*at] != ' ')
                .collect()
        };
        // The highest row has dots on the left only, the lowest on the right only.
        assert!(dots(&lines[0]).iter().all(|at| *at < 20), "{text}");
        assert!(dots(&lines[7]).iter().all(|at| *at > 30), "{text}");
        assert!(!dots(&lines[7]).is_empty(), "{text}");
        assert!(lines[0][10] == 'o' || lines[1][10] == 'o', "{text}");
        assert!(
            text.contains("4.100") && text.ends_with("step 100\n"),
            "{text}"
        );
    }

    #[test]
    fn odd_losses_are_drawn_or_left_out() {
        let of = |train: Vec<Point>| Losses {
            train,
            valid: Vec::new(),
        };
        assert!(draw(&of(Vec::new()), 10, 3).is_none());
        assert!(draw(&of(vec![(1.0, f64::NAN)]), 10, 3).is_none());
        assert!(draw(&of(vec![(1.0, 2.0)]), 10, 3).is_some());
        let with_gap = of(vec![
            (1.0, 2.0),
            (2.0, f64::NAN),
            (3.0, f64::INFINITY),
            (4.0, 1.0),
        ]);
        assert!(draw(&with_gap, 10, 3).is_some());
    }
}
