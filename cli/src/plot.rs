//! The curve of a training as a picture: SVG, or PNG.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;
use tiny_skia::{Color, Paint, PathBuilder, Pixmap, PremultipliedColorU8, Stroke, Transform};

use crate::curve::{share, Losses, Point, Range};
use crate::failure::{Failure, Outcome};

const SIZE: (f32, f32) = (800.0, 480.0);
/// Room left, right, above and below the curve.
const LEFT: f32 = 80.0;
const RIGHT: f32 = 24.0;
const TOP: f32 = 48.0;
const BOTTOM: f32 = 56.0;
const AXIS: [u8; 3] = [120, 120, 120];
const GRID: [u8; 3] = [225, 225, 225];
const WORDS: [u8; 3] = [40, 40, 40];
const TRAIN: [u8; 3] = [31, 119, 180];
const VALID: [u8; 3] = [214, 90, 20];

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// What a picture is drawn with.
trait Canvas {
    fn line(&mut self, points: &[(f32, f32)], width: f32, color: [u8; 3]);
    fn dot(&mut self, at: (f32, f32), color: [u8; 3]);
    fn text(&mut self, at: (f32, f32), anchor: Anchor, color: [u8; 3], text: &str);
}

/// Can this be the name of a picture? Asked before a training begins.
pub fn check_name(path: &Path) -> Outcome<()> {
    match extension(path).as_str() {
        "svg" | "png" => Ok(()),
        _ => Err(Failure::usage(format!(
            "--plot: the name of the picture must end with .svg or .png, not as \"{}\" does",
            path.display()
        ))),
    }
}

fn extension(path: &Path) -> String {
    path.extension()
        .map(|end| end.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// Draws the losses, titled with plain words.
pub fn write(losses: &Losses, title: &str, path: &Path) -> Outcome<()> {
    let bytes = if extension(path) == "svg" {
        let mut canvas = Svg(String::new());
        draw(losses, title, &mut canvas);
        canvas.finish().into_bytes()
    } else {
        let mut canvas = Png::new()?;
        draw(losses, title, &mut canvas);
        canvas.finish()?
    };
    fs::write(path, bytes).map_err(|error| Failure::file(path, "written", &error))
}

fn draw(losses: &Losses, title: &str, canvas: &mut dyn Canvas) {
    let (right, bottom) = (SIZE.0 - RIGHT, SIZE.1 - BOTTOM);
    canvas.text((LEFT, 28.0), Anchor::Start, WORDS, title);
    let Some(range) = losses.range() else {
        canvas.text(
            (SIZE.0 / 2.0, SIZE.1 / 2.0),
            Anchor::Middle,
            WORDS,
            "no losses",
        );
        return;
    };
    let place = |point: Point| in_frame(&range, point);
    for tick in ticks(range.y) {
        let (_, y) = place((range.x.0, tick.0));
        canvas.line(&[(LEFT, y), (right, y)], 1.0, GRID);
        canvas.text((LEFT - 8.0, y + 5.0), Anchor::End, WORDS, &tick.1);
    }
    for tick in ticks(range.x) {
        let (x, _) = place((tick.0, range.y.0));
        canvas.line(&[(x, bottom), (x, bottom + 5.0)], 1.0, AXIS);
        canvas.text((x, bottom + 22.0), Anchor::Middle, WORDS, &tick.1);
    }
    canvas.line(&[(LEFT, TOP), (LEFT, bottom), (right, bottom)], 1.0, AXIS);
    let middle = (LEFT + right) / 2.0;
    canvas.text((middle, bottom + 44.0), Anchor::Middle, WORDS, "step");

    let finite = |points: Vec<Point>| -> Vec<(f32, f32)> {
        points
            .into_iter()
            .filter(|p| p.1.is_finite())
            .map(place)
            .collect()
    };
    let train = finite(losses.thinned(400));
    canvas.line(&train, 2.0, TRAIN);
    if train.len() == 1 {
        canvas.dot(train[0], TRAIN);
    }
    canvas.text((right, TOP + 8.0), Anchor::End, TRAIN, "training loss");
    let valid = finite(losses.valid.clone());
    if !valid.is_empty() {
        canvas.line(&valid, 1.5, VALID);
        for point in &valid {
            canvas.dot(*point, VALID);
        }
        canvas.text((right, TOP + 28.0), Anchor::End, VALID, "validation loss");
    }
}

fn in_frame(range: &Range, (x, y): Point) -> (f32, f32) {
    let (width, height) = (SIZE.0 - LEFT - RIGHT, SIZE.1 - TOP - BOTTOM);
    (
        LEFT + width * share(x, range.x) as f32,
        TOP + height * (1.0 - share(y, range.y)) as f32,
    )
}

/// Round numbers between two values, at most eight, and how they are written.
fn ticks(range: (f64, f64)) -> Vec<(f64, String)> {
    let rough = (range.1 - range.0) / 7.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let first = (range.0 / step).ceil();
    (0..=7)
        .map(|index| (first + f64::from(index)) * step)
        .filter(|value| *value <= range.1)
        // Not "-0.0".
        .map(|value| (value, format!("{:.digits$}", value + 0.0)))
        .collect()
}

struct Svg(String);

impl Svg {
    fn finish(self) -> String {
        let (width, height) = SIZE;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{}</svg>\n",
            self.0
        )
    }
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

// Writing into a String cannot fail.
impl Canvas for Svg {
    fn line(&mut self, points: &[(f32, f32)], width: f32, color: [u8; 3]) {
        let list: Vec<_> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            self.0,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"/>",
            list.join(" "),
            hex(color)
        );
    }

    fn dot(&mut self, (x, y): (f32, f32), color: [u8; 3]) {
        let fill = hex(color);
        let _ = writeln!(
            self.0,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{fill}\"/>"
        );
    }

    fn text(&mut self, (x, y): (f32, f32), anchor: Anchor, color: [u8; 3], text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let mut escaped = String::new();
        for c in text.chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                // Not allowed in XML, in any form.
                c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
                c => escaped.push(c),
            }
        }
        let fill = hex(color);
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{escaped}</text>"
        );
    }
}

/// Twice as many points as SVG's, for dense screens.
struct Png(Pixmap);

const SCALE: f32 = 2.0;

impl Png {
    fn new() -> Outcome<Png> {
        let size = ((SIZE.0 * SCALE) as u32, (SIZE.1 * SCALE) as u32);
        let mut map = Pixmap::new(size.0, size.1).ok_or_else(|| picture("it has no size"))?;
        map.fill(Color::WHITE);
        Ok(Png(map))
    }

    fn finish(self) -> Outcome<Vec<u8>> {
        self.0
            .encode_png()
            .map_err(|error| picture(&error.to_string()))
    }
}

fn picture(why: &str) -> Failure {
    Failure::of_library(
        crate::ffi::MLXRT_E_INTERNAL,
        "INTERNAL",
        format!("the picture cannot be made: {why}"),
    )
}

fn paint_of([r, g, b]: [u8; 3]) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, 255);
    paint.anti_alias = true;
    paint
}

impl Canvas for Png {
    fn line(&mut self, points: &[(f32, f32)], width: f32, color: [u8; 3]) {
        let mut builder = PathBuilder::new();
        for (index, (x, y)) in points.iter().enumerate() {
            if index == 0 {
                builder.move_to(*x, *y);
            } else {
                builder.line_to(*x, *y);
            }
        }
        // One point alone makes no path.
        let Some(path) = builder.finish() else {
            return;
        };
        let stroke = Stroke {
            width,
            ..Stroke::default()
        };
        let scale = Transform::from_scale(SCALE, SCALE);
        self.0
            .stroke_path(&path, &paint_of(color), &stroke, scale, None);
    }

    fn dot(&mut self, (x, y): (f32, f32), color: [u8; 3]) {
        let Some(path) = PathBuilder::from_circle(x, y, 3.5) else {
            return;
        };
        let scale = Transform::from_scale(SCALE, SCALE);
        let rule = tiny_skia::FillRule::Winding;
        self.0.fill_path(&path, &paint_of(color), rule, scale, None);
    }

    /// In 8 by 8 dots a letter, each dot two points wide and high.
    fn text(&mut self, (x, y): (f32, f32), anchor: Anchor, color: [u8; 3], text: &str) {
        const DOT: usize = 2;
        const LETTER: usize = 8 * DOT;
        let length = (text.chars().count() * LETTER) as f32;
        let left = match anchor {
            Anchor::Start => x * SCALE,
            Anchor::Middle => x * SCALE - length / 2.0,
            Anchor::End => x * SCALE - length,
        };
        // y is where the letters stand.
        let top = y * SCALE - (7 * DOT) as f32;
        let (left, top) = (left.max(0.0) as usize, top.max(0.0) as usize);
        let (width, height) = (self.0.width() as usize, self.0.height() as usize);
        let Some(ink) = PremultipliedColorU8::from_rgba(color[0], color[1], color[2], 255) else {
            return;
        };
        let pixels = self.0.pixels_mut();
        for (index, letter) in text.chars().enumerate() {
            let rows = BASIC_LEGACY
                .get(letter as usize)
                .unwrap_or(&BASIC_LEGACY['?' as usize]);
            for (row, column) in (0..LETTER).flat_map(|row| (0..LETTER).map(move |c| (row, c))) {
                let (at_x, at_y) = (left + index * LETTER + column, top + row);
                if rows[row / DOT] >> (column / DOT) & 1 == 1 && at_x < width && at_y < height {
                    pixels[at_y * width + at_x] = ink;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for range in [
            (1.0, 200.0),
            (0.0, 1.0),
            (2.31, 2.57),
            (1.0, 2.0),
            (1e-4, 3e-4),
        ] {
            let ticks = ticks(range);
            assert!((3..=8).contains(&ticks.len()), "{range:?}: {ticks:?}");
            assert!(
                ticks.iter().all(|t| t.0 >= range.0 && t.0 <= range.1),
                "{ticks:?}"
            );
            let mut labels: Vec<_> = ticks.iter().map(|tick| &tick.1).collect();
            labels.dedup();
            assert_eq!(labels.len(), ticks.len(), "{ticks:?}");
        }
    }

    #[test]
    fn svg_escapes_its_title() {
        let mut canvas = Svg(String::new());
        let losses = Losses {
            train: vec![(1.0, 2.0), (2.0, 1.0)],
            valid: Vec::new(),
        };
        draw(&losses, "<a> & \u{1b}b", &mut canvas);
        let svg = canvas.finish();
        assert!(svg.contains("&lt;a&gt; &amp; \u{fffd}b"), "{svg}");
        assert!(svg.contains("<polyline"), "{svg}");
    }
}
