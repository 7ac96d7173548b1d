use crate::word::Timestamp;
use jiff::{civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// What must be so before a step begins. Evaluated at the moment of execution, never before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// A person must say so.
    pub approval: bool,
    /// The step begins inside these hours only.
    pub hours: Option<OpenHours>,
    /// Why a person is asked, where that is not the playbook's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A day of the week, as playbooks write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<civil::Weekday> for Day {
    fn from(day: civil::Weekday) -> Day {
        match day {
            civil::Weekday::Monday => Day::Mon,
            civil::Weekday::Tuesday => Day::Tue,
            civil::Weekday::Wednesday => Day::Wed,
            civil::Weekday::Thursday => Day::Thu,
            civil::Weekday::Friday => Day::Fri,
            civil::Weekday::Saturday => Day::Sat,
            civil::Weekday::Sunday => Day::Sun,
        }
    }
}

/// Hours of the week in a time zone. `from` later than `to` spans midnight and belongs to the day on which it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenHours {
    /// An IANA name such as `Europe/Berlin`, checked when the playbook is read.
    pub zone: String,
    /// Empty: every day.
    pub days: Vec<Day>,
    pub from: civil::Time,
    pub to: civil::Time,
}

impl Gate {
    /// What the step waits for now, for a person; `None` when the gate is open.
    pub fn waits_for(&self, now: Timestamp, approved: bool) -> Option<String> {
        let hours = self.hours.as_ref().filter(|hours| hours.opens_at(now).is_none_or(|at| at > now));
        let because = self.because.as_ref().map(|because| format!(": {because}")).unwrap_or_default();
        match (self.approval && !approved, hours) {
            (true, None) => Some(format!("an approval{because}")),
            (true, Some(hours)) => Some(format!("an approval, and {hours}{because}")),
            (false, Some(hours)) => Some(hours.to_string()),
            (false, None) => None,
        }
    }

    /// For a person, while the hours are shut: which they are, and when they open next, by their own clock.
    pub fn hours_in_words(&self, now: Timestamp) -> Option<String> {
        let hours = self.hours.as_ref()?;
        let Some(opens) = hours.opens_at(now) else { return Some(format!("{hours}, which never come")) };
        if opens <= now {
            return None;
        }
        let local = opens.to_zoned(TimeZone::get(&hours.zone).ok()?);
        let minutes = opens.duration_since(now).as_secs().saturating_add(59) / 60;
        let wait = match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
            (0, 0, minutes) => format!("{minutes} min"),
            (0, hours, minutes) => format!("{hours} h {minutes} min"),
            (1, hours, _) => format!("1 day {hours} h"),
            (days, hours, _) => format!("{days} days {hours} h"),
        };
        Some(format!("{hours}; they open {}, in {wait}", local.strftime("%a %Y-%m-%d %H:%M %Z")))
    }

    /// The next moment inside the hours: `now` itself when inside or when there are no hours.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.hours {
            None => Some(now),
            Some(hours) => hours.opens_at(now),
        }
    }
}

impl OpenHours {
    /// The next moment inside the hours, `now` itself when inside. `None`: the zone is unknown to this machine, or the
    /// hours never come; the gate then stays shut.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let zone = TimeZone::get(&self.zone).ok()?;
        let local = now.to_zoned(zone.clone());
        // From yesterday, since hours that span midnight may have begun then, to a week ahead.
        for ahead in -1..=8_i64 {
            let day = local.date().checked_add(jiff::Span::new().days(ahead)).ok()?;
            if !self.days.is_empty() && !self.days.contains(&day.weekday().into()) {
                continue;
            }
            let last_day = if self.to > self.from { day } else { day.tomorrow().ok()? };
            let begins = day.to_datetime(self.from).to_zoned(zone.clone()).ok()?.timestamp();
            let ends = last_day.to_datetime(self.to).to_zoned(zone.clone()).ok()?.timestamp();
            if now < ends {
                return Some(begins.max(now));
            }
        }
        None
    }
}

impl std::fmt::Display for OpenHours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the hours {} to {} {}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"), self.zone)?;
        if self.days.is_empty() {
            return Ok(());
        }
        let days: Vec<String> = self.days.iter().map(|day| format!("{day:?}")).collect();
        write!(f, " on {}", days.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(days: &[Day], from: &str, to: &str) -> OpenHours {
        OpenHours { zone: "Europe/Berlin".to_owned(), days: days.to_vec(), from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn hours_open_at_the_next_beginning_in_their_zone() {
        let cases = [
            (hours(&[], "02:00", "04:00"), "2026-11-23T01:30:00Z", "2026-11-23T01:30:00Z"),
            (hours(&[], "02:00", "04:00"), "2026-11-23T03:30:00Z", "2026-11-24T01:00:00Z"),
            (hours(&[], "23:00", "01:00"), "2026-11-22T23:30:00Z", "2026-11-22T23:30:00Z"),
            (hours(&[Day::Sun], "02:00", "04:00"), "2026-11-23T10:00:00Z", "2026-11-29T01:00:00Z"),
            // A Saturday night's hours reach into Sunday.
            (hours(&[Day::Sat], "22:00", "02:00"), "2026-11-28T23:30:00Z", "2026-11-28T23:30:00Z"),
        ];
        for (hours, now, opens) in cases {
            assert_eq!(hours.opens_at(now.parse().unwrap()), Some(opens.parse().unwrap()), "{hours} from {now}");
        }
    }

    #[test]
    fn shut_hours_say_when_they_open_by_their_own_clock() {
        let gate = Gate { hours: Some(hours(&[Day::Wed], "02:00", "04:00")), ..Gate::default() };
        let words = |now: &str| gate.hours_in_words(now.parse().unwrap());
        assert_eq!(
            words("2026-11-23T10:00:00Z").as_deref(),
            Some("the hours 02:00 to 04:00 Europe/Berlin on Wed; they open Wed 2026-11-25 02:00 CET, in 1 day 15 h")
        );
        assert!(words("2026-11-25T00:29:01Z").unwrap().ends_with("02:00 CET, in 31 min"));
        assert_eq!(words("2026-11-25T01:30:00Z"), None);
        assert_eq!(Gate::default().hours_in_words(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn a_zone_that_is_unknown_keeps_the_gate_shut() {
        let gate = Gate {
            hours: Some(OpenHours { zone: "Nowhere/None".to_owned(), ..hours(&[], "00:00", "23:59") }),
            ..Gate::default()
        };
        assert!(gate.waits_for(Timestamp::UNIX_EPOCH, true).is_some());
        assert_eq!(gate.opens_at(Timestamp::UNIX_EPOCH), None);
    }
}
