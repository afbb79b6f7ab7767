//! The one clock of a template: `strftime_now`, with Python's directives in the C locale.

use std::fmt::Write;

/// A moment of local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub year: i32,
    /// From 1.
    pub month: u32,
    /// From 1.
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub microsecond: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// From Sunday.
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Now {
    /// From seconds since 1970 in UTC, and how far local time is ahead of it.
    pub fn from_unix(seconds: i64, ahead: i64) -> Now {
        let local = seconds.saturating_add(ahead);
        let days = local.div_euclid(86_400);
        let of_day = u32::try_from(local.rem_euclid(86_400)).unwrap_or(0);
        // Years from March, in eras of 400: leap days come last in each.
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day = shifted.rem_euclid(146_097);
        let leaps = (day / 1_460)
            .saturating_sub(day / 36_524)
            .saturating_add(day / 146_096);
        let year = day.saturating_sub(leaps) / 365;
        let before = year
            .saturating_mul(365)
            .saturating_add(year / 4)
            .saturating_sub(year / 100);
        let of_year = day.saturating_sub(before);
        let march = of_year.saturating_mul(5).saturating_add(2) / 153;
        let first = march.saturating_mul(153).saturating_add(2) / 5;
        let month = if march < 10 {
            march.saturating_add(3)
        } else {
            march.saturating_sub(9)
        };
        let year = era
            .saturating_mul(400)
            .saturating_add(year)
            .saturating_add(i64::from(month <= 2));
        Now {
            year: i32::try_from(year).unwrap_or(1970),
            month: u32::try_from(month).unwrap_or(1),
            day: u32::try_from(of_year.saturating_sub(first).saturating_add(1)).unwrap_or(1),
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            microsecond: 0,
        }
    }

    fn is_leap(year: i32) -> bool {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    }

    /// From 1.
    fn day_of_year(&self) -> u32 {
        let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let before = lengths
            .iter()
            .take(self.month.saturating_sub(1) as usize)
            .fold(0u32, |days, month| days.saturating_add(*month));
        let leap = u32::from(self.month > 2 && Self::is_leap(self.year));
        before.saturating_add(leap).saturating_add(self.day)
    }

    /// From Sunday, 0.
    fn weekday(&self) -> u32 {
        let before = i64::from(self.year).saturating_sub(1);
        let days = before
            .saturating_mul(365)
            .saturating_add(before.div_euclid(4))
            .saturating_sub(before.div_euclid(100))
            .saturating_add(before.div_euclid(400))
            .saturating_add(i64::from(self.day_of_year()));
        u32::try_from(days.rem_euclid(7)).unwrap_or(0)
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (i32, u32) {
        let monday = (self.weekday().saturating_add(6)) % 7;
        let week = self.day_of_year().saturating_add(9).saturating_sub(monday) / 7;
        let weeks = |year: i32| {
            let first = Now {
                year,
                month: 1,
                day: 1,
                ..*self
            };
            let long = first.weekday() == 4 || (first.weekday() == 3 && Self::is_leap(year));
            if long {
                53
            } else {
                52
            }
        };
        if week == 0 {
            let year = self.year.saturating_sub(1);
            (year, weeks(year))
        } else if week > weeks(self.year) {
            (self.year.saturating_add(1), 1)
        } else {
            (self.year, week)
        }
    }

    /// What Python's `strftime` writes; unknown directives stay as they are.
    pub fn strftime(&self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut flag = None;
            let mut directive = chars.next();
            if let Some(c @ ('-' | '_' | '0' | '^' | '#')) = directive {
                flag = Some(c);
                directive = chars.next();
            }
            let Some(directive) = directive else {
                out.push('%');
                out.extend(flag);
                break;
            };
            self.directive(directive, flag, &mut out);
        }
        out
    }

    fn directive(&self, directive: char, flag: Option<char>, out: &mut String) {
        let start = out.len();
        let mut number = |value: u32, width: usize, pad: char| {
            let pad = match flag {
                Some('0') => '0',
                Some('_') => ' ',
                _ => pad,
            };
            let digits = value.to_string();
            if flag != Some('-') {
                for _ in digits.len()..width {
                    out.push(pad);
                }
            }
            out.push_str(&digits);
        };
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let weekday = self.weekday();
        let (iso_year, iso_week) = self.iso_week();
        let day = self.day_of_year();
        let week_from = |first: u32| {
            let offset = weekday.saturating_add(7).saturating_sub(first) % 7;
            day.saturating_add(6).saturating_sub(offset) / 7
        };
        let name = |names: &[&'static str], at: u32| {
            names.get(at as usize).copied().unwrap_or("").to_string()
        };
        let short = |name: String| name.chars().take(3).collect::<String>();
        let text = match directive {
            'd' => return number(self.day, 2, '0'),
            'e' => return number(self.day, 2, ' '),
            'm' => return number(self.month, 2, '0'),
            'H' => return number(self.hour, 2, '0'),
            'k' => return number(self.hour, 2, ' '),
            'I' => return number(hour12, 2, '0'),
            'l' => return number(hour12, 2, ' '),
            'M' => return number(self.minute, 2, '0'),
            'S' => return number(self.second, 2, '0'),
            'j' => return number(day, 3, '0'),
            'f' => return number(self.microsecond, 6, '0'),
            'y' => return number(self.year.rem_euclid(100).unsigned_abs(), 2, '0'),
            'C' => return number(self.year.div_euclid(100).unsigned_abs(), 2, '0'),
            'u' => return number(if weekday == 0 { 7 } else { weekday }, 1, '0'),
            'w' => return number(weekday, 1, '0'),
            'U' => return number(week_from(0), 2, '0'),
            'W' => return number(week_from(1), 2, '0'),
            'V' => return number(iso_week, 2, '0'),
            'Y' => self.year.to_string(),
            'G' => iso_year.to_string(),
            'B' => name(&MONTHS, self.month.saturating_sub(1)),
            'b' | 'h' => short(name(&MONTHS, self.month.saturating_sub(1))),
            'A' => name(&DAYS, weekday),
            'a' => short(name(&DAYS, weekday)),
            'p' if self.hour < 12 => "AM".to_string(),
            'p' => "PM".to_string(),
            'P' if self.hour < 12 => "am".to_string(),
            'P' => "pm".to_string(),
            'F' => self.strftime("%Y-%m-%d"),
            'D' | 'x' => self.strftime("%m/%d/%y"),
            'T' | 'X' => self.strftime("%H:%M:%S"),
            'R' => self.strftime("%H:%M"),
            'r' => self.strftime("%I:%M:%S %p"),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y"),
            'n' => "\n".to_string(),
            't' => "\t".to_string(),
            '%' => "%".to_string(),
            // The time has no zone.
            'z' | 'Z' => String::new(),
            other => {
                out.push('%');
                out.extend(flag);
                out.push(other);
                return;
            }
        };
        match flag {
            Some('^') => out.push_str(&text.to_uppercase()),
            _ => {
                let _ = out.write_str(&text);
            }
        }
        debug_assert!(out.len() >= start);
    }
}
