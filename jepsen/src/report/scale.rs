//! Scales: from values to places on a chart, with ticks at round numbers.
//!
//! Invariant: every value has a finite place within the scale; what is outside lies on its edge.

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Linear,
    Logarithmic,
}

/// From values to places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    spread: Spread,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Even steps; `high` is moved up if there is nothing between.
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Scale {
        let high = if high > low { high } else { low + 1.0 };
        Scale { spread: Spread::Linear, low, high, from, to }
    }

    /// Even factors, from and to round numbers around the values; what is not positive is left out.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let positive = values.filter(|value| *value > 0.0 && value.is_finite());
        let bounds = positive.fold(None, |bounds: Option<(f64, f64)>, value| {
            bounds
                .map_or(Some((value, value)), |(low, high)| Some((low.min(value), high.max(value))))
        });
        let (low, high) = bounds.unwrap_or((1.0, 10.0));
        let (low, high) = (round_down(low), round_up(high));
        let high = if high > low { high } else { low * 10.0 };
        Scale { spread: Spread::Logarithmic, low, high, from, to }
    }

    /// The least value on it.
    pub(super) fn low(&self) -> f64 {
        self.low
    }

    /// The greatest value on it.
    pub(super) fn high(&self) -> f64 {
        self.high
    }

    /// Where a value is.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if value.is_nan() { self.low } else { value.clamp(self.low, self.high) };
        let share = match self.spread {
            Spread::Linear => (value - self.low) / (self.high - self.low),
            Spread::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + share * (self.to - self.from)
    }

    /// Round values to mark, at most about `most` of them.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        match self.spread {
            Spread::Linear => self.even_ticks(most),
            Spread::Logarithmic => self.factor_ticks(most),
        }
    }

    fn even_ticks(&self, most: usize) -> Vec<f64> {
        let step = round_step((self.high - self.low) / most.max(1) as f64);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|count| count as f64 * step).collect()
    }

    /// 1, 2 and 5 of every decade if there is room, else 1 of every decade or every few.
    fn factor_ticks(&self, most: usize) -> Vec<f64> {
        let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        let within = |value: &f64| *value >= self.low * 0.999 && *value <= self.high * 1.001;
        let of = |factors: &'static [f64]| -> Vec<f64> {
            let each = |decade| factors.iter().map(move |factor| factor * power(decade));
            decades.clone().flat_map(each).filter(within).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0]);
        if fine.len() <= most {
            return fine;
        }
        let coarse = of(&[1.0]);
        let every = coarse.len().div_ceil(most.max(1)).max(1);
        coarse.into_iter().step_by(every).collect()
    }
}

fn power(decade: i32) -> f64 {
    10f64.powi(decade)
}

/// The next 1, 2 or 5 times a power of ten that is not below.
pub(super) fn round_step(least: f64) -> f64 {
    round_up(least.max(1e-9))
}

fn round_up(value: f64) -> f64 {
    let decade = power(value.log10().floor() as i32);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * decade >= value * 0.999_999);
    factor.unwrap_or(10.0) * decade
}

fn round_down(value: f64) -> f64 {
    let decade = power(value.log10().floor() as i32);
    let factors = [5.0, 2.0, 1.0].into_iter();
    factors.map(|factor| factor * decade).find(|low| *low <= value * 1.000_001).unwrap_or(decade)
}

/// A number with three digits, or all before the point.
pub(super) fn brief(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = match magnitude {
        m if m >= 100.0 || m == 0.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A duration in milliseconds, in the unit that suits it.
pub(super) fn duration(ms: f64) -> String {
    match ms {
        ms if ms <= 0.0 => "0 ms".into(),
        ms if ms < 0.1 => format!("{} µs", brief(ms * 1e3)),
        ms if ms < 1e3 => format!("{} ms", brief(ms)),
        ms if ms < 120e3 => format!("{} s", brief(ms / 1e3)),
        ms => format!("{} min", brief(ms / 60e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let linear = |high| Scale::linear(0.0, high, 0.0, 1.0).ticks(8);
        assert_eq!(linear(73.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]);
        assert_eq!(linear(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        let log =
            |low, high, most| Scale::logarithmic([low, high].into_iter(), 0.0, 1.0).ticks(most);
        assert_eq!(log(0.7, 30.0, 9), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(log(0.7, 9_000.0, 6), [1.0, 10.0, 100.0, 1e3, 1e4]);
    }

    #[test]
    fn every_value_has_a_place() {
        let log = Scale::logarithmic([0.0, 1.0, 100.0].into_iter(), 200.0, 0.0);
        assert_eq!([1.0, 10.0, 100.0].map(|v| log.place(v).round()), [200.0, 100.0, 0.0]);
        assert_eq!([0.0, -1.0, f64::NAN, 1e9].map(|v| log.place(v)), [200.0, 200.0, 200.0, 0.0]);
        let nothing = Scale::logarithmic([].into_iter(), 0.0, 1.0);
        assert!(nothing.place(3.0).is_finite());
        assert_eq!(Scale::linear(0.0, 0.0, 0.0, 1.0).place(0.0), 0.0);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.034, 0.5, 12.34, 1_000.0, 90_000.0, 300_000.0].map(duration);
        assert_eq!(texts, ["0 ms", "34 µs", "0.5 ms", "12.3 ms", "1 s", "90 s", "5 min"]);
        assert_eq!([1.0, 1234.5, 0.12345].map(brief), ["1", "1234", "0.123"]);
    }
}
