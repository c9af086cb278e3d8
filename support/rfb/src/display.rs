//! The screen, and the lamps of the keyboard, as all clients of a server see them: what has changed, and who
//! waits for that.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use executor::sync::Event;

use crate::frame::Frame;
use crate::login::Ended;
use crate::screen::{Input, Lamps, Screen, Size};
use crate::tiles::{Rect, Tiles};

/// The least time between two looks at the screen: 30 a second.
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);

/// The screen, its last known content, and the views of all clients.
pub(crate) struct Display {
    screen: Rc<dyn Screen>,
    input: Rc<dyn Input>,
    /// The lamps of the guest's keyboard as they were last seen.
    lamps: Cell<Option<Lamps>>,
    frame: RefCell<Frame>,
    views: RefCell<BTreeMap<u64, Rc<View>>>,
    /// The number of clients that wait for [`Display::refreshed`].
    waiting: Cell<usize>,
    /// Notified when a client begins to wait, and at the end.
    wanted: Event,
    /// Notified after each look at the screen.
    refreshed: Event,
    stopped: Cell<bool>,
}

/// One client's view: the tiles that it does not have, and what it asked for.
#[derive(Default)]
pub(crate) struct View {
    /// The tiles of the screen that differ from what the client has.
    missing: RefCell<Tiles>,
    /// The area that it asked for and did not get yet: the smallest that has all of its requests.
    requested: Cell<Option<Rect>>,
}

impl View {
    /// Records a request. Unless it is `incremental`, the client has nothing of that area.
    pub(crate) fn request(&self, area: Rect, incremental: bool) {
        let mut missing = self.missing.borrow_mut();
        let area = area.within(missing.size());
        if !incremental {
            missing.insert_area(area);
        }
        let joined =
            self.requested.get().filter(|before| !before.is_empty()).map(|before| before.with(&area));
        self.requested.set(Some(joined.unwrap_or(area)));
    }

    /// Returns true if the client asked for something and did not get it yet.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.get().is_some()
    }

    /// Answers the request: returns the rectangles that the client is sent, cut to the `size` that it knows.
    /// Empty if nothing that it asked for has changed; it then still waits.
    pub(crate) fn take(&self, size: Size) -> Vec<Rect> {
        let Some(area) = self.requested.get() else { return Vec::new() };
        let mut rects = self.missing.borrow_mut().take(area);
        rects.iter_mut().for_each(|rect| *rect = rect.within(size));
        rects.retain(|rect| !rect.is_empty());
        if !rects.is_empty() {
            self.requested.set(None);
        }
        rects
    }

    /// Forgets the request, which was answered in another way.
    pub(crate) fn answered(&self) {
        self.requested.set(None);
    }
}

/// Counts a client among those that wait.
struct Waiting<'a>(&'a Display);

impl<'a> Waiting<'a> {
    fn new(display: &'a Display) -> Self {
        display.waiting.set(display.waiting.get() + 1);
        display.wanted.notify();
        Waiting(display)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Display {
    pub(crate) fn new(screen: Rc<dyn Screen>, input: Rc<dyn Input>) -> Self {
        Display {
            screen,
            input,
            lamps: Cell::new(None),
            frame: RefCell::default(),
            views: RefCell::default(),
            waiting: Cell::new(0),
            wanted: Event::new(),
            refreshed: Event::new(),
            stopped: Cell::new(false),
        }
    }

    /// Looks at the screen while somebody waits for that, until [`Display::stop`].
    pub(crate) async fn run(&self) {
        let mut next = Duration::ZERO;
        while !self.stopped.get() {
            if self.waiting.get() == 0 {
                self.wanted.wait().await;
                continue;
            }
            if executor::now() < next {
                executor::sleep_until(next).await;
                continue;
            }
            next = executor::now() + INTERVAL;
            self.refresh();
            self.refreshed.notify();
            // Clients that have nothing to wait for any more go first.
            executor::yield_now().await;
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.wanted.notify();
        self.refreshed.notify();
    }

    fn refresh(&self) {
        self.lamps.set(self.input.lamps());
        let mut frame = self.frame.borrow_mut();
        frame.refresh(&*self.screen);
        let changed = frame.changed();
        if changed.is_empty() {
            return;
        }
        for view in self.views.borrow().values() {
            let mut missing = view.missing.borrow_mut();
            match missing.size() == changed.size() {
                true => missing.insert_all(changed),
                // Another size: nothing that the client has is right.
                false => *missing = changed.clone(),
            }
        }
    }

    /// Waits until the screen was looked at.
    ///
    /// # Errors
    /// [`Ended::Stopped`].
    pub(crate) async fn refreshed(&self) -> Result<(), Ended> {
        let _waiting = Waiting::new(self);
        if !self.stopped.get() {
            self.refreshed.wait().await;
        }
        if self.stopped.get() { Err(Ended::Stopped) } else { Ok(()) }
    }

    /// Adds the view of a client, which has nothing of the screen. It is removed when the result is dropped.
    pub(crate) fn view(self: &Rc<Self>, id: u64) -> Viewer {
        let view = Rc::new(View::default());
        *view.missing.borrow_mut() = Tiles::full(self.size());
        self.views.borrow_mut().insert(id, view.clone());
        Viewer { display: self.clone(), id, view }
    }

    /// Returns the size of the screen as it was last seen.
    pub(crate) fn size(&self) -> Size {
        self.frame.borrow().size()
    }

    /// Returns the lamps of the guest's keyboard as they were last seen, if they are known.
    pub(crate) fn lamps(&self) -> Option<Lamps> {
        self.lamps.get()
    }

    /// Returns the content of the screen as it was last seen.
    pub(crate) fn frame(&self) -> Ref<'_, Frame> {
        self.frame.borrow()
    }
}

/// A client that looks at the display.
pub(crate) struct Viewer {
    pub(crate) display: Rc<Display>,
    id: u64,
    pub(crate) view: Rc<View>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.display.views.borrow_mut().remove(&self.id);
    }
}
