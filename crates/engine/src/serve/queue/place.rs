//! A place in the queue, held before there is anything to put there.

use super::Queue;
use crate::serve::entry::Entry;
use crate::stream::StreamError;

/// A held place in the queue; dropping it gives it back.
pub(crate) struct Place<'a>(pub(super) &'a Queue);

impl Place<'_> {
    /// Queues an entry; its number names it while it waits.
    pub(crate) fn enqueue(self, mut entry: Entry) -> u64 {
        let mut state = self.0.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        entry.standing.ticket = ticket;
        if state.aborted {
            entry.mailbox.end(Err(StreamError::Stopped));
        } else {
            state.waiting.push(entry);
            state.dirty = true;
        }
        ticket
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
        self.0.changed.notify_all();
        self.0.ended.notify_all();
    }
}
