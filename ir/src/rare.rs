//! Fields that few have: eight bytes for those that have none of them.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What stands for [`Rare`] fields that are not held.
pub trait Blank: Default + PartialEq + 'static {
    /// All fields empty.
    fn blank() -> &'static Self;
}

/// Fields that are mostly empty; held only once they are written to. They read as empty until then.
pub struct Rare<T>(Option<Box<T>>);

impl<T: Blank> Rare<T> {
    /// Holds the fields, unless all of them are empty.
    pub fn new(fields: T) -> Rare<T> {
        Rare((fields != *T::blank()).then(|| Box::new(fields)))
    }

    /// All fields are empty.
    pub fn is_blank(&self) -> bool {
        self.0.as_ref().is_none_or(|held| **held == *T::blank())
    }

    /// Takes the fields out and leaves empty ones.
    pub fn take(&mut self) -> Rare<T> {
        Rare(self.0.take())
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Rare<T> {
        Rare(None)
    }
}

impl<T: Clone> Clone for Rare<T> {
    fn clone(&self) -> Rare<T> {
        Rare(self.0.clone())
    }
}

impl<T: Blank> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::blank())
    }
}

impl<T: Blank> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Blank> PartialEq for Rare<T> {
    fn eq(&self, other: &Rare<T>) -> bool {
        **self == **other
    }
}

impl<T: Blank + fmt::Debug> fmt::Debug for Rare<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
