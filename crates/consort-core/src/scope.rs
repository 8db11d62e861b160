//! Where in a model the current thread is: `decoder.3.attention`. Decorators name operations by it.

use std::{cell::RefCell, fmt::Write, marker::PhantomData};

type Path = Vec<Part>;

thread_local! {
    static PATH: RefCell<Path> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy)]
enum Part {
    Name(&'static str),
    Index(usize),
}

/// Leaves the scope when dropped, on the thread that entered it.
#[must_use]
#[derive(Debug)]
pub struct Scope(PhantomData<*const ()>);

/// A place that can be entered again: a backward happens where its forward did. The default is outside of every model.
#[derive(Clone, Default)]
pub struct Place(Path);

/// Where the thread was; it is there again when this is dropped, on the thread that left it.
#[must_use]
pub struct Elsewhere(Path, PhantomData<*const ()>);

/// Where the current thread is.
pub fn here() -> Place {
    Place(PATH.with_borrow(Path::clone))
}

impl Place {
    /// Goes there from wherever the thread is.
    pub fn enter(&self) -> Elsewhere {
        Elsewhere(PATH.replace(self.0.clone()), PhantomData)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        PATH.set(std::mem::take(&mut self.0));
    }
}

/// Enters a named part; formatting waits until someone asks for the path.
pub fn enter(name: &'static str) -> Scope {
    push(Part::Name(name))
}

/// Enters a numbered part.
pub fn enter_index(index: usize) -> Scope {
    push(Part::Index(index))
}

/// The parts entered, joined by dots.
pub fn path() -> String {
    PATH.with_borrow(|path| {
        let mut out = String::new();
        for part in path {
            if !out.is_empty() {
                out.push('.');
            }
            match part {
                Part::Name(name) => out.push_str(name),
                Part::Index(index) => {
                    let _ = write!(out, "{index}");
                }
            }
        }
        out
    })
}

fn push(part: Part) -> Scope {
    PATH.with_borrow_mut(|path| path.push(part));
    Scope(PhantomData)
}

impl Drop for Scope {
    fn drop(&mut self) {
        PATH.with_borrow_mut(|path| path.pop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_can_be_left_and_entered_again() {
        let _decoder = enter("decoder");
        let place = {
            let _layer = enter_index(3);
            here()
        };
        assert_eq!(path(), "decoder");
        {
            let _head = enter("head");
            let _there = place.enter();
            let _part = enter("attention");
            assert_eq!(path(), "decoder.3.attention");
        }
        assert_eq!(path(), "decoder");
    }
}
