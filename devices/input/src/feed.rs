//! The feed: events on their way to the guest, and the keys that are down for it.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::codes::{
    ABS_MAX, ABS_X, ABS_Y, EV_ABS, EV_KEY, EV_REL, EV_SYN, LAST_KEY, LED_CAPSL, LED_NUML, LED_SCROLLL,
};

/// The number of waiting events from which on only releases of keys are accepted.
pub const WAITING_MAX: usize = 1024;

/// The most events of one input: two positions and their end.
const MOST_EVENTS: usize = 3;

/// A wheel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axis {
    /// Up and down.
    Vertical,
    /// Left and right.
    Horizontal,
}

/// The lamps of a keyboard. Its guest lights them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lamps {
    /// Num Lock.
    pub num_lock: bool,
    /// Caps Lock.
    pub caps_lock: bool,
    /// Scroll Lock.
    pub scroll_lock: bool,
}

/// `struct virtio_input_event` without its byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) kind: u16,
    pub(crate) code: u16,
    pub(crate) value: u32,
}

impl Event {
    const END: Event = Event { kind: EV_SYN, code: 0, value: 0 };

    /// Returns its 8 bytes (virtio 1.2, 5.8.6).
    pub(crate) fn bytes(self) -> [u8; 8] {
        let ([a, b], [c, d], [e, f, g, h]) =
            (self.kind.to_le_bytes(), self.code.to_le_bytes(), self.value.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    /// The keys and buttons that are down, as the guest will see it after all that waits.
    down: BTreeSet<u16>,
    /// True if the last events that wait are a move of the pointer, which another move may replace.
    ends_in_move: bool,
    /// True while the guest has a driver.
    is_active: bool,
    /// The lamps, once a driver has lit or darkened one.
    lamps: Option<Lamps>,
}

impl State {
    /// Returns true if `count` inputs, each of a press, a step of a wheel or a move, would all be taken.
    fn has_room(&self, count: usize) -> bool {
        let before_last = count.saturating_sub(1).saturating_mul(MOST_EVENTS);
        count == 0 || self.waiting.len().saturating_add(before_last) < WAITING_MAX
    }

    fn push(&mut self, events: &[Event]) {
        self.waiting.extend(events);
        self.waiting.push_back(Event::END);
        self.ends_in_move = false;
    }

    /// Adds events if there is a driver and room for them. Returns false if there is no room.
    fn offer(&mut self, events: &[Event]) -> bool {
        let has_room = self.has_room(1);
        if self.is_active && has_room {
            self.push(events);
        }
        !self.is_active || has_room
    }
}

/// The events that wait for a guest's keyboard or tablet. Nothing ever waits for the guest.
pub struct Feed {
    state: Mutex<State>,
    /// Written when there are events.
    ready: EventFd,
}

impl Feed {
    /// Returns a feed for a device whose driver has not started yet.
    ///
    /// # Errors
    /// Fails if the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Feed { state: Mutex::default(), ready: EventFd::new(EFD_NONBLOCK)? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        let mut state = self.state();
        let was_empty = state.waiting.is_empty();
        let is_taken = change(&mut state);
        if was_empty && !state.waiting.is_empty() {
            // Fails only when the counter is full, and then it is readable already.
            let _ = self.ready.write(1);
        }
        is_taken
    }

    /// Returns true if that many presses, steps of a wheel and moves would all be taken now. They are if the
    /// guest has no driver: it is given none of them then.
    pub fn has_room(&self, count: usize) -> bool {
        let state = self.state();
        !state.is_active || state.has_room(count)
    }

    /// Moves a key or button. A key that goes down while it is down is repeated. A key that goes up while it
    /// is up is ignored, and so is a code that no device here has.
    ///
    /// Returns false if it was dropped because [`WAITING_MAX`] events wait. That happens to no release.
    pub fn key(&self, code: u16, down: bool) -> bool {
        self.change(|state| {
            let was_down = state.down.contains(&code);
            let value = match (was_down, down) {
                (false, false) => return true,
                (true, false) => 0,
                (false, true) => 1,
                (true, true) => 2,
            };
            let event = Event { kind: EV_KEY, code, value };
            let is_button = crate::config::BUTTONS.contains(&code);
            if !down {
                state.down.remove(&code);
                state.push(&[event]);
                return true;
            }
            if !state.is_active || !(is_button || (1..=LAST_KEY).contains(&code)) {
                return true;
            }
            if value == 2 && is_button {
                return true;
            }
            let is_taken = state.offer(&[event]);
            if is_taken {
                state.down.insert(code);
            }
            is_taken
        })
    }

    /// Releases all keys and buttons that are down.
    pub fn release_all(&self) {
        let down: Vec<_> = self.state().down.iter().copied().collect();
        for code in down {
            self.key(code, false);
        }
    }

    /// Moves the pointer. 0 is the left or upper edge of the screen, [`ABS_MAX`] the right or lower one;
    /// larger values count as that. A move that waits is replaced by the next one.
    ///
    /// Returns false if it was dropped because [`WAITING_MAX`] events wait.
    pub fn point(&self, x: u32, y: u32) -> bool {
        let position = |code, value: u32| Event { kind: EV_ABS, code, value: value.min(ABS_MAX) };
        self.change(|state| {
            if state.ends_in_move {
                let keep = state.waiting.len().saturating_sub(MOST_EVENTS);
                state.waiting.truncate(keep);
            }
            let is_taken = state.offer(&[position(ABS_X, x), position(ABS_Y, y)]);
            state.ends_in_move = is_taken && state.is_active;
            is_taken
        })
    }

    /// Turns a wheel by this many steps: away from the user or to the right if that is positive.
    ///
    /// Returns false if it was dropped because [`WAITING_MAX`] events wait.
    pub fn wheel(&self, axis: Axis, steps: i32) -> bool {
        let code = match axis {
            Axis::Vertical => crate::codes::REL_WHEEL,
            Axis::Horizontal => crate::codes::REL_HWHEEL,
        };
        self.change(|state| state.offer(&[Event { kind: EV_REL, code, value: steps.cast_unsigned() }]))
    }

    /// Lights or darkens a lamp. A code that no keyboard here has is ignored.
    pub(crate) fn lamp(&self, code: u16, lit: bool) {
        let mut state = self.state();
        let mut lamps = state.lamps.unwrap_or_default();
        match code {
            LED_NUML => lamps.num_lock = lit,
            LED_CAPSL => lamps.caps_lock = lit,
            LED_SCROLLL => lamps.scroll_lock = lit,
            _ => return,
        }
        state.lamps = Some(lamps);
    }

    /// Returns the lamps as the guest has them, all dark after a reset. `None` until a guest has ever lit or
    /// darkened one: there are drivers that never do, whatever the state of their lock keys.
    pub fn lamps(&self) -> Option<Lamps> {
        self.state().lamps
    }

    /// Returns the eventfd that is written when there are events to take.
    pub(crate) fn ready(&self) -> &EventFd {
        &self.ready
    }

    /// Returns true if an event waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Takes the oldest event.
    pub(crate) fn take(&self) -> Option<Event> {
        let mut state = self.state();
        let event = state.waiting.pop_front();
        // A move of which a part is taken cannot be replaced any more.
        if state.waiting.len() < 3 {
            state.ends_in_move = false;
        }
        event
    }

    /// Forgets everything. `is_active` is true if the guest has a driver from now on: without one, events are
    /// dropped. The device calls this.
    pub fn restart(&self, is_active: bool) {
        let mut state = self.state();
        let lamps = state.lamps.map(|_| Lamps::default());
        *state = State { is_active, lamps, ..State::default() };
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
