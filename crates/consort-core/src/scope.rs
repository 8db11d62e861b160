//! Where in a model the current thread is: `decoder.3.attention`. Decorators name operations by it.

use std::{cell::RefCell, fmt::Write, marker::PhantomData};

thread_local! {
    static PATH: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
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
