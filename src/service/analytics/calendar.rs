//! The time line in hours, days, weeks or months of a time zone, on the IANA database as chrono-tz has it.
//!
//! ```text
//! Europe/Amsterdam, 2010-10-31: the clock goes back from 03:00+02:00 to 02:00+01:00
//!
//! hour  [01:00+02:00)[02:00+02:00)[02:00+01:00)[03:00+01:00)    an hour twice: two buckets
//! day   ...          2010-10-31, 25 hours                  ...  one
//! ```
//!
//! Buckets of a unit tile the time line: every second is in exactly one, however the clock is set.
//!
//! An hour is what one offset shows as one hour: it ends with the full hour, or where the offset changes.
//!
//! A day begins at the first instant at which the clock shows its date or a later one, and ends where the
//! next one begins; so do weeks and months. A clock that is then set back over midnight does not begin the
//! old day again: what it shows twice counts to the day that has begun. So each date is one bucket, at most
//! two days long (Alaska, 1867), dates that the clock leaves out have none (Apia, 2011-12-30), weeks and
//! months are whole days, and keys rise.
//!
//! *Absent*: changes after 2099. chrono-tz ends there, and a zone keeps its last offset.

use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// No offset reaches this far, east or west: Manila and Metlakatla come near, before 1868.
const OFFSET_MAX: i64 = 16 * HOUR;

/// From this second on, 1980-01-01T00:00:00Z, no day, week or month of any zone begins or ends within a
/// quarter of an hour of UTC, so that counts of these quarters can be put into buckets. Kiribati's Line
/// Islands were the last to change, in October 1979, from -10:40. For hours see [`Zone::quarters_from`].
pub const QUARTERS_FROM: i64 = 315_532_800;

/// Zones that since then have changed their offset at a minute past the hour, and the end of the quarter
/// in which they last did.
const HOURS_CUT_UNTIL: [(Tz, i64); 7] = [
    (Tz::America__Goose_Bay, 1_299_989_700),
    (Tz::America__Moncton, 1_162_091_700),
    (Tz::America__St_Johns, 1_299_987_900),
    (Tz::Antarctica__Casey, 1_664_640_900),
    (Tz::Asia__Gaza, 1_301_609_700),
    (Tz::Asia__Hebron, 1_301_609_700),
    (Tz::Canada__Newfoundland, 1_299_987_900),
];

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    Hour,
    Day,
    /// ISO 8601: from Monday.
    Week,
    Month,
}

/// A piece of the time line, in seconds since 1970, half open. Never empty. Either end may be up to a
/// month outside of the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    pub start: i64,
    pub end: i64,
}

/// A time zone of the IANA database. The empty name is UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

/// A name that the IANA database does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time zone of the IANA database")]
pub struct UnknownZone(pub String);

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        if name.is_empty() {
            return Ok(Self::UTC);
        }
        name.parse().map(Self).map_err(|_| UnknownZone(name.to_owned()))
    }
}

impl Zone {
    pub const UTC: Self = Self(Tz::UTC);

    /// The bucket that this second of the years 1 to 9999 is in.
    pub fn bucket(self, unit: Unit, seconds: i64) -> Bucket {
        let local = seconds + self.offset(seconds);
        if unit == Unit::Hour {
            let start = seconds - (local - unit.first(local));
            let end = start + HOUR;
            return Bucket {
                start: self.change(start, seconds).unwrap_or(start),
                end: self.change(seconds, end).unwrap_or(end),
            };
        }
        let mut first = unit.first(local);
        loop {
            let next = unit.next(first);
            let end = self.reached(next);
            if seconds < end {
                return Bucket { start: self.reached(first), end };
            }
            // The clock was set back, and showed `next` before.
            first = next;
        }
    }

    /// The bucket that begins where this one ends.
    pub fn next(self, unit: Unit, bucket: Bucket) -> Bucket {
        self.bucket(unit, bucket.end)
    }

    /// The buckets of times that rise, in less time than one by one.
    pub fn walk(self, unit: Unit) -> Walk {
        let nothing = Bucket { start: 0, end: 0 };
        Walk { zone: self, unit, day: nothing, last: nothing }
    }

    /// The name of the bucket that begins here: `2010-10-31T02:00+01:00`, `2010-10-31`, `2010-W43`,
    /// `2010-10`. No other bucket of the unit and zone has it. Hours have seconds where they begin with
    /// some, and so have offsets: until 1972 only.
    pub fn key(self, unit: Unit, start: i64) -> String {
        let offset = self.offset(start);
        let local = start + offset;
        let date = date(local);
        let (year, month, day) = (date.year(), date.month(), date.day());
        match unit {
            Unit::Hour => {
                let time = clock(local.rem_euclid(DAY));
                let sign = if offset < 0 { '-' } else { '+' };
                let offset = clock(offset.abs());
                format!("{year:04}-{month:02}-{day:02}T{time}{sign}{offset}")
            }
            Unit::Day => format!("{year:04}-{month:02}-{day:02}"),
            Unit::Week => {
                let week = date.iso_week();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Unit::Month => format!("{year:04}-{month:02}"),
        }
    }

    /// From this second on no bucket of the unit begins or ends within a quarter of an hour of UTC. That is
    /// [`QUARTERS_FROM`], but for the hours of six places that changed their offset at a minute past. Also
    /// before it a quarter is in one bucket if that bucket ends at or after the quarter's end.
    pub fn quarters_from(self, unit: Unit) -> i64 {
        let cut = HOURS_CUT_UNTIL.iter().find(|(zone, _)| unit == Unit::Hour && *zone == self.0);
        cut.map_or(QUARTERS_FROM, |(_, until)| *until)
    }

    /// What the zone's clock shows more than UTC's, in seconds.
    fn offset(self, seconds: i64) -> i64 {
        let utc =
            DateTime::from_timestamp(seconds, 0).expect("chrono's years reach far beyond ours");
        self.0.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc().into()
    }

    /// The first second at which the zone's clock shows `local`, given in seconds of that clock, or more.
    fn reached(self, local: i64) -> i64 {
        let before = local - OFFSET_MAX;
        let reached = local - self.offset(before);
        match self.change(before, reached) {
            None => reached,
            Some(change) => change.max(local - self.offset(change)),
        }
    }

    /// When the offset changes after `from`, at `to` at the latest. There is at most one change in the
    /// times that are asked for, 32 hours: the shortest time between two is 7 days less an hour (Recife,
    /// 2000).
    fn change(self, mut from: i64, mut to: i64) -> Option<i64> {
        let before = self.offset(from);
        if self.offset(to) == before {
            return None;
        }
        while from + 1 < to {
            let middle = from.midpoint(to);
            if self.offset(middle) == before {
                from = middle;
            } else {
                to = middle;
            }
        }
        Some(to)
    }
}

/// Looks for the buckets of times that rise.
pub struct Walk {
    zone: Zone,
    unit: Unit,
    day: Bucket,
    last: Bucket,
}

impl Walk {
    /// The bucket that this second is in, which is not before those that were asked for.
    pub fn bucket(&mut self, seconds: i64) -> Bucket {
        if !self.last.holds(seconds) {
            self.last = match self.unit {
                Unit::Hour => self.hour(seconds),
                unit => self.zone.bucket(unit, seconds),
            };
        }
        self.last
    }

    fn hour(&mut self, seconds: i64) -> Bucket {
        if !self.day.holds(seconds) {
            self.day = self.zone.bucket(Unit::Day, seconds);
        }
        // In a day of 24 hours the offset does not change.
        if self.day.end - self.day.start != DAY {
            return self.zone.bucket(Unit::Hour, seconds);
        }
        let start = seconds - (seconds - self.day.start) % HOUR;
        Bucket { start, end: start + HOUR }
    }
}

impl Bucket {
    fn holds(self, seconds: i64) -> bool {
        self.start <= seconds && seconds < self.end
    }
}

/// On a clock that is never set.
impl Unit {
    /// When the one that `local` is in begins.
    fn first(self, local: i64) -> i64 {
        let day = local - local.rem_euclid(DAY);
        match self {
            Self::Hour => local - local.rem_euclid(HOUR),
            Self::Day => day,
            // 1970 began on a Thursday.
            Self::Week => day - (day + 3 * DAY).rem_euclid(7 * DAY),
            Self::Month => day - i64::from(date(local).day0()) * DAY,
        }
    }

    /// When the one after that which begins with `first` does.
    fn next(self, first: i64) -> i64 {
        match self {
            Self::Hour => first + HOUR,
            Self::Day => first + DAY,
            Self::Week => first + 7 * DAY,
            Self::Month => self.first(first + 31 * DAY),
        }
    }
}

fn date(local: i64) -> NaiveDate {
    let days = i32::try_from(local.div_euclid(DAY)).ok();
    days.and_then(NaiveDate::from_epoch_days).expect("chrono's years reach far beyond ours")
}

/// `HH:MM`, or `HH:MM:SS` where there are seconds.
fn clock(seconds: i64) -> String {
    let (hours, minutes) = (seconds / HOUR, seconds % HOUR / 60);
    match seconds % 60 {
        0 => format!("{hours:02}:{minutes:02}"),
        seconds => format!("{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::TZ_VARIANTS;
    use proptest::{prelude::*, sample::select};

    use super::*;
    use Unit::{Day, Hour, Month, Week};

    const UNITS: [Unit; 4] = [Hour, Day, Week, Month];
    /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

    fn zone(name: &str) -> Zone {
        name.parse().expect("a zone")
    }

    fn at(time: &str) -> i64 {
        DateTime::parse_from_rfc3339(time).expect("RFC 3339").timestamp()
    }

    /// The bucket that `time` is in and those after it: their keys and how many minutes they have.
    fn buckets<const N: usize>(name: &str, unit: Unit, time: &str) -> [(String, i64); N] {
        let zone = zone(name);
        let mut bucket = zone.bucket(unit, at(time));
        std::array::from_fn(|_| {
            let key_and_minutes = (zone.key(unit, bucket.start), (bucket.end - bucket.start) / 60);
            bucket = zone.next(unit, bucket);
            key_and_minutes
        })
    }

    fn expected<const N: usize>(buckets: [(&str, i64); N]) -> [(String, i64); N] {
        buckets.map(|(key, minutes)| (key.to_owned(), minutes))
    }

    #[test]
    fn an_hour_that_the_clock_shows_twice_is_two_buckets() {
        assert_eq!(
            buckets("Europe/Amsterdam", Hour, "2010-10-31T01:30:00+02:00"),
            expected([
                ("2010-10-31T01:00+02:00", 60),
                ("2010-10-31T02:00+02:00", 60),
                ("2010-10-31T02:00+01:00", 60),
                ("2010-10-31T03:00+01:00", 60),
            ])
        );
    }

    #[test]
    fn an_hour_that_the_clock_leaves_out_is_none() {
        assert_eq!(
            buckets("Europe/Amsterdam", Hour, "2011-03-27T01:59:59+01:00"),
            expected([("2011-03-27T01:00+01:00", 60), ("2011-03-27T03:00+02:00", 60)])
        );
    }

    #[test]
    fn days_weeks_and_months_are_as_long_as_their_clock_says() {
        let zone = "Europe/Amsterdam";
        assert_eq!(
            buckets(zone, Day, "2010-10-30T12:00:00Z"),
            expected([("2010-10-30", 24 * 60), ("2010-10-31", 25 * 60), ("2010-11-01", 24 * 60)])
        );
        assert_eq!(
            buckets(zone, Day, "2011-03-26T23:00:00Z"),
            expected([("2011-03-27", 23 * 60), ("2011-03-28", 24 * 60)])
        );
        assert_eq!(
            buckets(zone, Week, "2010-10-24T22:00:00Z"),
            expected([("2010-W43", 169 * 60), ("2010-W44", 168 * 60)])
        );
        assert_eq!(
            buckets(zone, Month, "2011-02-28T22:59:59Z"),
            expected([
                ("2011-02", 28 * 24 * 60),
                ("2011-03", (31 * 24 - 1) * 60),
                ("2011-04", 30 * 24 * 60)
            ])
        );
        assert_eq!(
            Zone::UTC.bucket(Day, at("2010-10-31T23:59:59Z")),
            Bucket { start: at("2010-10-31T00:00:00Z"), end: at("2010-11-01T00:00:00Z") }
        );
    }

    #[test]
    fn a_day_without_a_midnight_begins_where_the_clock_jumps() {
        assert_eq!(
            buckets("America/Sao_Paulo", Day, "2018-11-03T12:00:00-03:00"),
            expected([("2018-11-03", 24 * 60), ("2018-11-04", 23 * 60), ("2018-11-05", 24 * 60)])
        );
        let day = zone("America/Sao_Paulo").bucket(Day, at("2018-11-04T12:00:00-02:00"));
        assert_eq!(day.start, at("2018-11-04T01:00:00-02:00"));
    }

    /// Midnight is not reached: 24:00 becomes 23:00.
    #[test]
    fn a_day_whose_last_hour_comes_twice_is_one_bucket() {
        assert_eq!(
            buckets("America/Sao_Paulo", Day, "2019-02-16T00:00:00-02:00"),
            expected([("2019-02-16", 25 * 60), ("2019-02-17", 24 * 60)])
        );
    }

    #[test]
    fn a_day_that_the_clock_goes_back_into_has_ended_nevertheless() {
        let zone = "America/St_Johns"; // 2010-11-07T00:01-02:30 became 2010-11-06T23:01-03:30.
        assert_eq!(
            buckets(zone, Day, "2010-11-06T12:00:00Z"),
            expected([("2010-11-06", 24 * 60), ("2010-11-07", 25 * 60), ("2010-11-08", 24 * 60)])
        );
        assert_eq!(
            buckets(zone, Hour, "2010-11-07T02:29:00Z"),
            expected([
                ("2010-11-06T23:00-02:30", 60),
                ("2010-11-07T00:00-02:30", 1),
                ("2010-11-06T23:01-03:30", 59),
                ("2010-11-07T00:00-03:30", 60),
            ])
        );
        let shown_again = at("2010-11-06T23:30:00-03:30");
        assert_eq!(
            self::zone(zone).bucket(Day, shown_again).start,
            at("2010-11-07T00:00:00-02:30")
        );
    }

    #[test]
    fn a_date_that_came_twice_is_one_bucket() {
        assert_eq!(
            buckets("America/Juneau", Day, "1867-10-17T12:00:00Z"),
            expected([("1867-10-18", 24 * 60), ("1867-10-19", 48 * 60), ("1867-10-20", 24 * 60)])
        );
    }

    #[test]
    fn a_date_that_the_clock_leaves_out_has_no_bucket() {
        let zone = "Pacific/Apia";
        assert_eq!(
            buckets(zone, Day, "2011-12-29T12:00:00-10:00"),
            expected([("2011-12-29", 24 * 60), ("2011-12-31", 24 * 60), ("2012-01-01", 24 * 60)])
        );
        assert_eq!(
            buckets(zone, Week, "2011-12-29T12:00:00-10:00"),
            expected([("2011-W52", 6 * 24 * 60), ("2012-W01", 7 * 24 * 60)])
        );
    }

    #[test]
    fn hours_are_cut_where_the_clock_is_set_by_half_an_hour() {
        let zone = "Australia/Lord_Howe";
        assert_eq!(
            buckets(zone, Hour, "2011-04-03T01:00:00+11:00"),
            expected([
                ("2011-04-03T01:00+11:00", 60),
                ("2011-04-03T01:30+10:30", 30),
                ("2011-04-03T02:00+10:30", 60),
            ])
        );
        assert_eq!(
            buckets(zone, Hour, "2011-10-02T01:00:00+10:30"),
            expected([
                ("2011-10-02T01:00+10:30", 60),
                ("2011-10-02T02:30+11:00", 30),
                ("2011-10-02T03:00+11:00", 60),
            ])
        );
    }

    #[test]
    fn hours_are_those_of_the_clock_also_where_its_offset_is_none() {
        let kathmandu = zone("Asia/Kathmandu");
        let hour = kathmandu.bucket(Hour, at("2010-10-31T10:14:59Z"));
        assert_eq!(
            hour,
            Bucket { start: at("2010-10-31T09:15:00Z"), end: at("2010-10-31T10:15:00Z") }
        );
        assert_eq!(kathmandu.key(Hour, hour.start), "2010-10-31T15:00+05:45");
    }

    #[test]
    fn weeks_are_those_of_iso_8601_also_at_the_ends_of_years() {
        for (time, week) in [
            ("2011-01-02T23:59:59Z", "2010-W52"),
            ("2011-01-03T00:00:00Z", "2011-W01"),
            ("2010-01-03T23:59:59Z", "2009-W53"),
            ("2012-01-01T12:00:00Z", "2011-W52"),
            ("2008-12-29T00:00:00Z", "2009-W01"),
        ] {
            let bucket = Zone::UTC.bucket(Week, at(time));
            assert_eq!(Zone::UTC.key(Week, bucket.start), week, "{time}");
        }
    }

    #[test]
    fn seconds_before_1970_and_offsets_with_seconds_have_their_buckets() {
        assert_eq!(
            Zone::UTC.bucket(Hour, -1),
            Bucket { start: at("1969-12-31T23:00:00Z"), end: 0 }
        );
        assert_eq!(
            buckets("Europe/Amsterdam", Day, "1969-12-31T23:59:59Z"),
            expected([("1970-01-01", 24 * 60)])
        );
        // 1972-01-07T00:00:00-00:44:30 became 00:44:30Z.
        assert_eq!(
            buckets("Africa/Monrovia", Hour, "1972-01-07T00:44:29Z"),
            expected([
                ("1972-01-06T23:00-00:44:30", 60),
                ("1972-01-07T00:44:30+00:00", 15),
                ("1972-01-07T01:00+00:00", 60),
            ])
        );
    }

    #[test]
    fn the_first_and_the_last_second_have_buckets_in_every_zone() {
        for zone in TZ_VARIANTS.map(Zone) {
            for seconds in [*SECONDS.start(), *SECONDS.end()] {
                for unit in UNITS {
                    let bucket = zone.bucket(unit, seconds);
                    assert!((bucket.start..bucket.end).contains(&seconds), "{zone:?} {unit:?}");
                    let next = zone.next(unit, bucket);
                    assert_ne!(zone.key(unit, bucket.start), zone.key(unit, next.start));
                }
            }
        }
        let (first, last) = (*SECONDS.start(), *SECONDS.end());
        let key = |zone: Zone, unit, seconds| zone.key(unit, zone.bucket(unit, seconds).start);
        assert_eq!(key(Zone::UTC, Month, first), "0001-01");
        assert_eq!(key(Zone::UTC, Week, first), "0001-W01");
        assert_eq!(key(zone("America/New_York"), Day, first), "0000-12-31");
        assert_eq!(key(Zone::UTC, Month, last), "9999-12");
        assert_eq!(key(zone("Asia/Tokyo"), Day, last), "10000-01-01");
    }

    #[test]
    fn a_name_is_a_zone_or_is_told() {
        assert_eq!("".parse(), Ok(Zone::UTC));
        assert_eq!("Europe/Amsterdam".parse(), Ok(Zone(Tz::Europe__Amsterdam)));
        for name in ["Europe/Leyden", "europe/amsterdam", "+01:00", " "] {
            assert_eq!(name.parse::<Zone>(), Err(UnknownZone(name.to_owned())));
        }
    }

    /// The changes of a zone's offset between two times. Looks at each day.
    fn changes(zone: Zone, from: i64, to: i64) -> impl Iterator<Item = i64> {
        (from..to).step_by(86_400).filter_map(move |day| zone.change(day, day + DAY))
    }

    /// All that quarters of an hour need to be counted into any zone's buckets.
    #[test]
    fn no_bucket_cuts_a_quarter_of_an_hour() {
        let end = at("2100-01-01T00:00:00Z");
        let whole = |seconds: i64| seconds % (15 * 60) == 0;
        assert!(whole(QUARTERS_FROM));
        for zone in TZ_VARIANTS.map(Zone) {
            assert!(whole(zone.offset(QUARTERS_FROM)), "{zone:?}");
            let mut last_cut = None;
            for change in changes(zone, QUARTERS_FROM, end) {
                assert!(whole(zone.offset(change)), "{zone:?} at {change}");
                if !whole(change) {
                    last_cut = Some(change - change % (15 * 60) + 15 * 60);
                }
                for unit in [Day, Week, Month] {
                    let bucket = zone.bucket(unit, change);
                    assert!(whole(bucket.start) && whole(bucket.end), "{zone:?} {unit:?} {change}");
                    assert_eq!(zone.quarters_from(unit), QUARTERS_FROM);
                }
            }
            assert_eq!(zone.quarters_from(Hour), last_cut.unwrap_or(QUARTERS_FROM), "{zone:?}");
        }
    }

    /// What `reached` and `change` rest on.
    #[test]
    fn no_offset_reaches_16_hours_and_no_two_changes_are_close() {
        for zone in TZ_VARIANTS.map(Zone) {
            let mut last = at("1800-01-01T00:00:00Z");
            assert!(zone.offset(last).abs() < OFFSET_MAX, "{zone:?}");
            for change in changes(zone, last, at("2100-01-01T00:00:00Z")) {
                assert!(zone.offset(change).abs() < OFFSET_MAX, "{zone:?} at {change}");
                assert!(change - last > 2 * OFFSET_MAX, "{zone:?} at {change}");
                last = change;
            }
        }
    }

    /// Any second, and more often one within days of a change of the zone's offset.
    fn zone_and_second() -> impl Strategy<Value = (Zone, i64)> {
        let times = at("1840-01-01T00:00:00Z")..at("2100-01-01T00:00:00Z");
        let anywhere =
            (select(&TZ_VARIANTS[..]), SECONDS).prop_map(|(tz, second)| (Zone(tz), second));
        let near_a_change = (select(&TZ_VARIANTS[..]), times, -3 * DAY..3 * DAY).prop_map(
            |(tz, second, distance)| {
                let change = changes(Zone(tz), second, second + 2000 * DAY).next();
                (Zone(tz), change.unwrap_or(second) + distance)
            },
        );
        prop_oneof![1 => anywhere, 4 => near_a_change]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn buckets_tile_the_time_line((zone, second) in zone_and_second(), unit in select(&UNITS[..])) {
            let bucket = zone.bucket(unit, second);
            prop_assert!((bucket.start..bucket.end).contains(&second));
            for inside in [bucket.start, bucket.start.midpoint(bucket.end), bucket.end - 1] {
                prop_assert_eq!(zone.bucket(unit, inside), bucket);
            }
            let next = zone.next(unit, bucket);
            prop_assert_eq!(next.start, bucket.end);
            prop_assert_eq!(zone.bucket(unit, bucket.start - 1).end, bucket.start);
            let (key, key_of_next) = (zone.key(unit, bucket.start), zone.key(unit, next.start));
            prop_assert_ne!(&key, &key_of_next);
            if unit != Hour && (0..SECONDS.end() - 40 * DAY).contains(&second) {
                prop_assert!(key < key_of_next);
            }
        }

        /// Also over days on which the clock is set.
        #[test]
        fn a_walk_finds_the_same_buckets(
            (zone, second) in zone_and_second(), unit in select(&UNITS[..]), step in 1i64..3000
        ) {
            let mut walk = zone.walk(unit);
            let until = (second + 3 * DAY).min(*SECONDS.end());
            for second in (second..until).step_by(usize::try_from(step * 10).expect("small")) {
                prop_assert_eq!(walk.bucket(second), zone.bucket(unit, second));
            }
        }

        /// Nothing before a day's start shows its date or a later one, and nothing in it a later one.
        #[test]
        fn a_day_begins_when_its_date_is_first_shown(
            (zone, second) in zone_and_second(), unit in select(&[Day, Week, Month][..])
        ) {
            let bucket = zone.bucket(unit, second);
            let shown = |second| unit.first(second + zone.offset(second));
            let of_bucket = shown(bucket.start);
            for before in (bucket.start - 2 * DAY..bucket.start).step_by(600).chain([bucket.start - 1]) {
                prop_assert!(shown(before) < of_bucket);
            }
            for inside in (bucket.start..bucket.end).step_by(600).chain([bucket.end - 1]) {
                prop_assert!(shown(inside) <= of_bucket);
            }
        }

        #[test]
        fn an_hour_is_what_one_offset_shows_as_one_hour((zone, second) in zone_and_second()) {
            let hour = zone.bucket(Hour, second);
            let shown = |second| {
                let offset = zone.offset(second);
                (Hour.first(second + offset), offset)
            };
            for inside in [hour.start, second, hour.end - 1] {
                prop_assert_eq!(shown(inside), shown(hour.start));
            }
            prop_assert_ne!(shown(hour.start - 1), shown(hour.start));
            prop_assert_ne!(shown(hour.end), shown(hour.start));
        }

        #[test]
        fn days_are_whole_hours_weeks_and_months_whole_days((zone, second) in zone_and_second()) {
            for (coarse, fine) in [(Day, Hour), (Week, Day), (Month, Day), (Week, Hour), (Month, Hour)] {
                let bucket = zone.bucket(coarse, second);
                prop_assert_eq!(zone.bucket(fine, bucket.start).start, bucket.start);
                prop_assert_eq!(zone.bucket(fine, bucket.end - 1).end, bucket.end);
            }
        }
    }
}
