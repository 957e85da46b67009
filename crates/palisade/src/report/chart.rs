//! Charts as SVG inside a page. All places are percentages of a chart that is as wide as the
//! page, and texts keep their size: a phone shows the same, narrower. Colours are those of
//! the page's style, so that they follow the reader's light or dark scheme.

use minijinja::context;
use minijinja::value::Value;

use super::template::render;

/// Where the first value stands, right of the labels of the axis; and the last.
const LEFT: f64 = 18.0;
const RIGHT: f64 = 97.0;

/// Where the greatest value stands, below the marks; and the least, above the dates.
const TOP: f64 = 14.0;
const BOTTOM: f64 = 82.0;

/// How many lines the axis of values has, about.
const LINES: f64 = 4.0;

/// One value.
pub(super) struct Dot {
    pub(super) value: f64,
    /// What the reader sees who points at it.
    pub(super) title: String,
    /// Where a click leads.
    pub(super) link: Option<String>,
}

/// A place between two values where something changed.
pub(super) struct Mark {
    /// The first value after it.
    pub(super) at: usize,
    /// The class of the style.
    pub(super) class: &'static str,
    pub(super) text: String,
}

/// Values evenly spaced, with a line through them.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) dots: Vec<Dot>,
    pub(super) marks: Vec<Mark>,
    /// What stands below the first and the last value.
    pub(super) ends: [String; 2],
    /// The share of the middle value that the axis spans at least: noise alone must not look
    /// like mountains.
    pub(super) least_span: f64,
}

impl Chart {
    /// The chart as a part of a page; `label` writes a value of the axis. `None` without a
    /// value.
    pub(super) fn draw(&self, label: impl Fn(f64) -> String) -> Option<Value> {
        let values = || self.dots.iter().map(|dot| dot.value);
        let low = values().reduce(f64::min)?;
        let high = values().reduce(f64::max)?;
        let middle = f64::midpoint(low, high);
        let least = (self.least_span * middle.abs()).max(f64::MIN_POSITIVE);
        let (low, high) = if high - low < least {
            (middle - least / 2.0, middle + least / 2.0)
        } else {
            (low, high)
        };
        let count = self.dots.len();
        let x = |index: usize| LEFT + (RIGHT - LEFT) * index as f64 / (count.max(2) - 1) as f64;
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low);
        let lines = axis(low, high).into_iter().map(|value| {
            context! { y => place(y(value)), label => label(value) }
        });
        let marks = self.marks.iter().filter(|mark| mark.at > 0);
        let marks = marks.map(|mark| {
            context! {
                x => place(f64::midpoint(x(mark.at), x(mark.at - 1))),
                class => mark.class,
                text => &mark.text,
            }
        });
        let dots = self.dots.iter().enumerate().map(|(index, dot)| {
            context! {
                x => place(x(index)),
                y => place(y(dot.value)),
                title => &dot.title,
                link => &dot.link,
            }
        });
        let [first, last] = &self.ends;
        let values = context! {
            title => &self.title,
            left => LEFT,
            right => RIGHT,
            lines => lines.collect::<Vec<_>>(),
            marks => marks.collect::<Vec<_>>(),
            dots => dots.collect::<Vec<_>>(),
            first,
            last => (count > 1).then_some(last),
        };
        Some(part("chart.svg", include_str!("chart.svg"), values))
    }
}

/// An estimate with its interval.
#[derive(Clone, Copy)]
pub(super) struct Interval<'a> {
    pub(super) low: f64,
    pub(super) centre: f64,
    pub(super) high: f64,
    /// What the whole width stands for.
    pub(super) from: f64,
    pub(super) to: f64,
    /// What counts as nothing: from and to.
    pub(super) nothing: [f64; 2],
    /// The class of the style.
    pub(super) class: &'a str,
    /// The same in words.
    pub(super) title: &'a str,
}

impl Interval<'_> {
    /// The interval as a part of a page. What lies beyond the width ends at its edge.
    pub(super) fn draw(self) -> Value {
        let x = |value: f64| {
            let share = (value - self.from) / (self.to - self.from);
            place(2.0 + 96.0 * share.clamp(0.0, 1.0))
        };
        let [nothing_low, nothing_high] = self.nothing;
        let values = context! {
            low => x(self.low),
            centre => x(self.centre),
            high => x(self.high),
            nothing_low => x(nothing_low),
            nothing_high => x(nothing_high),
            nothing_middle => x(f64::midpoint(nothing_low, nothing_high)),
            class => self.class,
            title => self.title,
        };
        part("interval.svg", include_str!("interval.svg"), values)
    }
}

fn part(name: &str, template: &str, values: Value) -> Value {
    // What the values hold was escaped when the template was filled in.
    Value::from_safe_string(render(name, template, values))
}

fn place(percent: f64) -> String {
    format!("{percent:.1}")
}

/// Round values between two others: multiples of 1, 2 or 5 times a power of ten.
fn axis(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / LINES;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    let count = (last - first).clamp(0.0, 2.0 * LINES) as usize;
    (0..=count).map(|n| (first + n as f64) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_has_round_values_inside_the_range() {
        for (low, high, expected) in [
            (0.0, 100.0, vec![0.0, 50.0, 100.0]),
            (97.0, 100.0, vec![97.0, 98.0, 99.0, 100.0]),
            (
                950_000.0,
                1_050_000.0,
                vec![950_000.0, 1_000_000.0, 1_050_000.0],
            ),
        ] {
            assert_eq!(axis(low, high), expected, "{low} to {high}");
        }
    }

    #[test]
    fn a_chart_has_an_axis_dots_and_marks_and_escapes_what_it_shows() {
        let dot = |value| Dot {
            value,
            title: "<b>".to_owned(),
            link: None,
        };
        let chart = Chart {
            title: "a & b".to_owned(),
            dots: [1.0, 1.0, 2.0].map(dot).into(),
            marks: vec![Mark {
                at: 2,
                class: "worse",
                text: "+100.0 %".to_owned(),
            }],
            ends: ["old", "new"].map(str::to_owned),
            least_span: 0.1,
        };
        let drawn = chart.draw(|value| format!("{value} s")).expect("values");
        let drawn = drawn.to_string();
        for part in [
            "a &amp; b",
            "&lt;b&gt;",
            "1.5 s",
            "class=\"worse\"",
            "+100.0 %",
            "old",
            "new",
        ] {
            assert!(drawn.contains(part), "{part}\n{drawn}");
        }
        assert_eq!(drawn.matches("<circle").count(), 3);
        let none = Chart {
            dots: Vec::new(),
            ..chart
        };
        assert!(none.draw(|value| value.to_string()).is_none());
    }

    #[test]
    fn what_lies_beyond_the_width_ends_at_its_edge() {
        let interval = Interval {
            low: -5.0,
            centre: 0.5,
            high: 9.0,
            from: 0.0,
            to: 1.0,
            nothing: [0.0, 0.0],
            class: "open",
            title: "wide",
        };
        let drawn = interval.draw().to_string();
        for part in ["x1=\"2.0%\" x2=\"98.0%\"", "cx=\"50.0%\"", "wide"] {
            assert!(drawn.contains(part), "{part}\n{drawn}");
        }
    }
}
