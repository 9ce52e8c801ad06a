//! What changes of files are called, and how the two halves of a move become one.

use rustix::fs::inotify::ReadFlags;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Create,
    Modify,
    Remove,
    Move,
    Access,
    /// Changes were lost.
    Overflow,
}

const NAMED: [Kind; 5] = [Kind::Create, Kind::Modify, Kind::Remove, Kind::Move, Kind::Access];

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Modify => "modify",
            Kind::Remove => "remove",
            Kind::Move => "move",
            Kind::Access => "access",
            Kind::Overflow => "overflow",
        }
    }
}

/// The kinds that are asked for; what was lost is told always.
#[derive(Debug, Clone, Copy)]
pub struct Kinds(u8);

impl Kinds {
    pub fn of<'a>(words: impl Iterator<Item = &'a str>) -> Option<Kinds> {
        let mut kinds = 0;
        for word in words {
            kinds |= NAMED.into_iter().find(|kind| kind.word() == word)?.bit();
        }
        Some(Kinds(kinds))
    }

    pub fn has(self, kind: Kind) -> bool {
        kind == Kind::Overflow || self.0 & kind.bit() != 0
    }
}

impl Kind {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A change, with the path that it concerns, or the old and the new one of a move.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    pub paths: Vec<Vec<u8>>,
    pub of_folder: bool,
}

impl Change {
    pub fn of(kind: Kind, path: Vec<u8>, of_folder: bool) -> Change {
        Change { kind, paths: vec![path], of_folder }
    }
}

/// The first half of a move, until the second one or something else comes.
#[derive(Default)]
pub struct Moves {
    from: Option<(u32, Change)>,
    /// Turns in which nothing came.
    waited: bool,
}

impl Moves {
    pub fn is_empty(&self) -> bool {
        self.from.is_none()
    }

    /// Return what an event of inotify means for `path`.
    pub fn judge(&mut self, what: ReadFlags, cookie: u32, path: Vec<u8>) -> Vec<Change> {
        if what.contains(ReadFlags::MOVED_TO)
            && let Some((_, mut change)) = self.from.take_if(|(first, _)| *first == cookie)
        {
            change.paths.push(path);
            return vec![change];
        }
        let of_folder = what.contains(ReadFlags::ISDIR);
        let mut changes: Vec<Change> = self.take().into_iter().collect();
        if what.contains(ReadFlags::MOVED_FROM) {
            self.from = Some((cookie, Change::of(Kind::Move, path, of_folder)));
            return changes;
        }
        changes.extend(kind_of(what).map(|kind| Change::of(kind, path, of_folder)));
        changes
    }

    /// Nothing came: the second half has had its time, and after a turn more the path was moved out of sight.
    pub fn give_up(&mut self) -> Option<Change> {
        if self.from.is_some() && !std::mem::replace(&mut self.waited, true) {
            return None;
        }
        self.take()
    }

    fn take(&mut self) -> Option<Change> {
        self.waited = false;
        self.from.take().map(|(_, change)| change)
    }
}

fn kind_of(what: ReadFlags) -> Option<Kind> {
    let of_folder = what.contains(ReadFlags::ISDIR);
    if what.contains(ReadFlags::CREATE) {
        Some(Kind::Create)
    } else if what.intersects(ReadFlags::DELETE | ReadFlags::DELETE_SELF) {
        Some(Kind::Remove)
    } else if what.intersects(ReadFlags::MOVED_TO | ReadFlags::MOVE_SELF) {
        Some(Kind::Move)
    } else if what.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB) {
        Some(Kind::Modify)
    } else if !of_folder && what.intersects(ReadFlags::OPEN | ReadFlags::ACCESS | ReadFlags::CLOSE_WRITE) {
        // Folders are opened by whoever lists them, ourselves included.
        Some(Kind::Access)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(change: &Change) -> Vec<&[u8]> {
        change.paths.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn the_halves_of_a_move_become_one() {
        let mut moves = Moves::default();
        assert!(moves.judge(ReadFlags::MOVED_FROM, 7, b"/a".to_vec()).is_empty());
        let told = moves.judge(ReadFlags::MOVED_TO, 7, b"/b".to_vec());
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind, paths(&told[0])), (Kind::Move, vec![&b"/a"[..], b"/b"]));
        assert!(moves.is_empty());
    }

    #[test]
    fn half_a_move_is_told_when_something_else_comes_or_after_a_turn() {
        let mut moves = Moves::default();
        moves.judge(ReadFlags::MOVED_FROM, 7, b"/a".to_vec());
        let told = moves.judge(ReadFlags::MOVED_TO, 8, b"/b".to_vec());
        let told: Vec<_> = told.iter().map(|change| (change.kind, paths(change))).collect();
        assert_eq!(told, [(Kind::Move, vec![&b"/a"[..]]), (Kind::Move, vec![b"/b"])]);
        moves.judge(ReadFlags::MOVED_FROM, 9, b"/c".to_vec());
        assert_eq!(moves.give_up(), None);
        assert_eq!(moves.give_up(), Some(Change::of(Kind::Move, b"/c".to_vec(), false)));
        assert_eq!(moves.give_up(), None);
    }

    #[test]
    fn kinds_are_those_asked_for_and_what_was_lost() {
        let kinds = Kinds::of(["create", "move"].into_iter()).expect("known words");
        assert!(kinds.has(Kind::Create) && kinds.has(Kind::Move) && kinds.has(Kind::Overflow));
        assert!(!kinds.has(Kind::Modify) && !kinds.has(Kind::Access));
        assert!(Kinds::of(["overflow"].into_iter()).is_none());
    }
}
