//! How many windows may be under way, or wait for the consumer, at once.

/// The depth of the line of windows.
///
/// Threads that wait for another machine need no core, and many of them should be under way. Where none waits,
/// more threads than cores only hold memory that is new to the processor's caches each time. Which case
/// applies is observed: nothing was fetched while the first window was read, or, once something was, while as
/// many were read as may be in line.
#[derive(Debug)]
pub(super) struct Depth {
    /// The most windows, and as many as there should be where no thread waits.
    most: u64,
    enough: u64,
    /// How many windows, or parts of them, were read in succession while nothing was fetched, and how many of
    /// them say that this will go on.
    quiet: u64,
    is_quiet_after: u64,
}

impl Depth {
    /// Returns the depth for so many threads, of which `enough` are enough where none waits.
    pub(super) fn new(threads: u64, enough: u64) -> Self {
        // One window in each thread's hands, and one for each in line.
        Self { most: 2 * threads, enough, quiet: 0, is_quiet_after: 1 }
    }

    /// Notes whether anything was fetched while a window, or a part of one, was read.
    pub(super) fn note(&mut self, has_fetched: bool) {
        if has_fetched {
            self.quiet = 0;
            self.is_quiet_after = self.most;
        } else {
            self.quiet = self.quiet.saturating_add(1);
        }
    }

    /// Notes that nothing will be fetched any more.
    pub(super) fn end_fetching(&mut self) {
        self.quiet = self.is_quiet_after;
        self.most = self.most.min(2 * self.enough);
    }

    /// Returns whether another window may be read, with so many in line, some of which are being read.
    pub(super) fn has_room(&self, in_line: u64, being_read: u64) -> bool {
        if self.quiet < self.is_quiet_after {
            return in_line < self.most;
        }
        in_line < self.most.min(2 * self.enough) && being_read < self.enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many windows are read at once, and how many may wait.
    fn room(depth: &Depth) -> (u64, u64) {
        let reading = (0..100).find(|&count| !depth.has_room(count, count)).unwrap();
        let waiting = (0..100).find(|&count| !depth.has_room(count, 0)).unwrap();
        (reading, waiting)
    }

    #[test]
    fn all_threads_read_as_long_as_windows_are_fetched() {
        let mut depth = Depth::new(8, 2);
        assert_eq!(room(&depth), (16, 16));
        depth.note(true);
        for _ in 0..15 {
            depth.note(false);
            assert_eq!(room(&depth), (16, 16));
        }
        depth.note(false);
        assert_eq!(room(&depth), (2, 4));
        depth.note(true);
        assert_eq!(room(&depth), (16, 16));
    }

    #[test]
    fn a_first_window_that_is_here_is_like_those_behind_it() {
        let mut depth = Depth::new(8, 2);
        depth.note(false);
        assert_eq!(room(&depth), (2, 4));
        depth.note(true);
        assert_eq!(room(&depth), (16, 16));
        depth.end_fetching();
        assert_eq!(room(&depth), (2, 4));
    }

    #[test]
    fn fewer_threads_than_are_enough_are_all_of_use() {
        let mut depth = Depth::new(1, 4);
        assert_eq!(room(&depth), (2, 2));
        depth.note(false);
        assert_eq!(room(&depth), (2, 2));
    }
}
