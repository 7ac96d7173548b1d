//! Names of WAL files and what follows from them: how far an archive reaches without a gap, along one timeline.
//!
//! **Invariant:** pure. What is in an archive comes in as a list.

use crate::word::Lsn;
use std::collections::BTreeSet;

/// A segment of the log: which piece, of which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Counts from the log's beginning: its first byte is at `number * segment_bytes`.
    pub number: u64,
    pub timeline: u32,
}

impl Segment {
    /// Reads a name such as `0000000100000000000000A3`.
    pub fn parse(name: &str, segment_bytes: u64) -> Option<Segment> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let fits = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
        if !fits || segment_bytes == 0 {
            return None;
        }
        let (timeline, log, piece) = (hex(&name[..8])?, hex(&name[8..16])?, hex(&name[16..])?);
        Some(Segment { timeline: u32::try_from(timeline).ok()?, number: log * ((1 << 32) / segment_bytes) + piece })
    }

    pub fn name(self, segment_bytes: u64) -> String {
        let per_log = (1 << 32) / segment_bytes;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_log, self.number % per_log)
    }

    /// The segment in which a byte is.
    pub fn of(at: Lsn, timeline: u32, segment_bytes: u64) -> Segment {
        Segment { timeline, number: at.0 / segment_bytes }
    }
}

/// What is in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    pub segment_bytes: u64,
    pub segments: BTreeSet<Segment>,
    /// The one that is being received now: it holds what the server has written so far.
    pub partial: Option<Segment>,
    /// Timelines whose history file is there.
    pub histories: BTreeSet<u32>,
}

/// One timeline with those that it descends from: each with the place at which its successor left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub timeline: u32,
    /// Oldest first.
    pub parents: Vec<(u32, Lsn)>,
}

impl History {
    /// Of a timeline that descends from no other.
    pub fn alone(timeline: u32) -> History {
        History { timeline, parents: Vec::new() }
    }

    /// Reads a history file: on each line a timeline, the place where it was left, and why.
    pub fn parse(timeline: u32, text: &str) -> Option<History> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let parent = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        Some(History { timeline, parents: lines.map(parent).collect::<Option<Vec<_>>>()? })
    }

    /// The timeline to which the byte at `at` belongs in this history.
    pub fn timeline_at(&self, at: Lsn) -> u32 {
        self.parents.iter().find(|(_, left)| at < *left).map_or(self.timeline, |(timeline, _)| *timeline)
    }

    /// Where another timeline stops to be part of this history; `None`: it is not part of it, or is it itself.
    pub fn left(&self, timeline: u32) -> Option<Lsn> {
        self.parents.iter().find(|(parent, _)| *parent == timeline).map(|(_, left)| *left)
    }

    pub fn contains(&self, timeline: u32) -> bool {
        timeline == self.timeline || self.left(timeline).is_some()
    }
}

/// How far recovery can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Nothing at or after this can be had.
    pub end: Lsn,
    /// The first segment that is missing although later ones are there.
    pub gap: Option<Segment>,
    /// The last segment that can be used, where there is one.
    pub last: Option<Segment>,
}

/// How far an archive reaches from `from` along a history.
pub fn reach(archived: &Archived, history: &History, from: Lsn) -> Reach {
    let size = archived.segment_bytes;
    let there = |segment: &Segment| archived.segments.contains(segment) || archived.partial == Some(*segment);
    let first = from.0 / size;
    let mut end = from;
    let mut last = None;
    let mut number = first;
    loop {
        let (begin, past) = (Lsn((number * size).max(from.0)), Lsn((number + 1) * size));
        // The newest timeline that reaches into this piece; its file repeats what it has from its parents.
        let newest = Segment { timeline: history.timeline_at(Lsn(past.0 - 1)), number };
        if there(&newest) {
            (end, last) = (past, Some(newest));
            number += 1;
            continue;
        }
        let older = Segment { timeline: history.timeline_at(begin), number };
        if older != newest && there(&older) {
            // It was left inside this piece, and what follows is not there.
            end = history.left(older.timeline).unwrap_or(end);
            last = Some(older);
        }
        break;
    }
    let later =
        |segment: &&Segment| segment.number > number && history.contains(segment.timeline) && on_path(history, segment, size);
    let beyond = archived.segments.iter().chain(&archived.partial).any(|segment| later(&segment));
    let missing = Segment { timeline: history.timeline_at(Lsn((number + 1) * size - 1)), number };
    Reach { end, gap: beyond.then_some(missing), last }
}

/// Whether recovery along this history would ever read the segment: blue may have gone on after green left it.
fn on_path(history: &History, segment: &Segment, size: u64) -> bool {
    history.left(segment.timeline).is_none_or(|left| segment.number * size < left.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB16: u64 = 16 << 20;

    fn archived(names: &[&str]) -> Archived {
        Archived {
            segment_bytes: MIB16,
            segments: names.iter().map(|n| Segment::parse(n, MIB16).unwrap()).collect(),
            ..Archived::default()
        }
    }

    #[test]
    fn names_of_segments_are_read_and_written() {
        let segment = Segment::parse("0000000200000003000000A3", MIB16).unwrap();
        assert_eq!(segment, Segment { timeline: 2, number: 3 * 256 + 0xA3 });
        assert_eq!(segment.name(MIB16), "0000000200000003000000A3");
        assert_eq!(Segment::of(Lsn(0x3_A300_0001), 2, MIB16), segment);
        for name in ["00000002.history", "0000000200000003000000A3.partial", "0000000200000003000000a3", ""] {
            assert_eq!(Segment::parse(name, MIB16), None, "{name}");
        }
    }

    #[test]
    fn an_archive_reaches_to_its_first_gap() {
        let all = archived(&["000000010000000000000002", "000000010000000000000003", "000000010000000000000005"]);
        let from = Lsn(0x200_0028);
        let reach_of = reach(&all, &History::alone(1), from);
        assert_eq!(reach_of.end, Lsn(0x400_0000));
        assert_eq!(reach_of.gap.unwrap().name(MIB16), "000000010000000000000004");
        let whole = archived(&["000000010000000000000002", "000000010000000000000003"]);
        assert_eq!(reach(&whole, &History::alone(1), from).gap, None);
        let none = reach(&archived(&[]), &History::alone(1), from);
        assert_eq!((none.end, none.gap, none.last), (from, None, None));
    }

    #[test]
    fn another_timeline_in_the_archive_is_not_followed_unasked() {
        // Green left blue in segment 3, and both went on.
        let names =
            ["000000010000000000000002", "000000010000000000000003", "000000010000000000000004", "000000020000000000000003"];
        let mut all = archived(&names);
        all.segments.insert(Segment { timeline: 2, number: 4 });
        all.segments.insert(Segment { timeline: 2, number: 5 });
        assert_eq!(reach(&all, &History::alone(1), Lsn(0x200_0028)).end, Lsn(0x500_0000));
        let green = History::parse(2, "1\t0/3000110\tno recovery target specified\n").unwrap();
        let reach_of = reach(&all, &green, Lsn(0x200_0028));
        assert_eq!((reach_of.end, reach_of.gap), (Lsn(0x600_0000), None));
        assert_eq!(green.timeline_at(Lsn(0x300_0100)), 1);
        assert_eq!(green.timeline_at(Lsn(0x300_0110)), 2);
    }

    #[test]
    fn a_history_whose_own_segments_are_missing_reaches_to_where_it_began() {
        let all = archived(&["000000010000000000000002", "000000010000000000000003", "000000010000000000000004"]);
        let green = History::parse(2, "1\t0/3000110\twhy\n").unwrap();
        let reach_of = reach(&all, &green, Lsn(0x200_0028));
        assert_eq!((reach_of.end, reach_of.gap), (Lsn(0x300_0110), None));
    }
}
