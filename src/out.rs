//! Standard streams that may be closed early: `onnxq inspect MODEL | head` ends quietly.
//!
//! The macros take the place of the standard ones in the whole program (this module is declared first), which panic when
//! nobody reads any more. What a command still has to do besides printing, it does. Any other failure to print (a full disk)
//! is an error of the program at its end; what goes to stderr is lost where stderr is.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::sync::{Mutex, PoisonError};

static FAILURE: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Like the standard `print!`, without its panic.
macro_rules! print {
    ($($arg:tt)*) => { $crate::out::write(format_args!($($arg)*)) };
}

/// Like the standard `println!`, without its panic.
macro_rules! println {
    () => { $crate::out::write(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::out::write_line(format_args!($($arg)*)) };
}

/// Like the standard `eprintln!`, without its panic.
macro_rules! eprintln {
    ($($arg:tt)*) => { $crate::out::tell(format_args!($($arg)*)) };
}

/// Writes a line to stderr, if anybody reads it.
pub(crate) fn tell(text: Arguments) {
    let mut err = stderr().lock();
    let _ = err.write_fmt(text).and_then(|()| err.write_all(b"\n"));
}

/// Writes unless an earlier write failed.
pub(crate) fn write(text: Arguments) {
    keep(|| stdout().write_fmt(text));
}

/// The same with the end of the line, in one go.
pub(crate) fn write_line(text: Arguments) {
    keep(|| {
        let mut out = stdout().lock();
        out.write_fmt(text)?;
        out.write_all(b"\n")
    });
}

/// Writes what is still held back, and says why something could not be written. That nobody reads is no failure.
pub(crate) fn finish() -> std::io::Result<()> {
    keep(|| stdout().flush());
    match FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

fn keep(write: impl FnOnce() -> std::io::Result<()>) {
    let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.is_none()
        && let Err(error) = write()
    {
        *failure = Some(error);
    }
}
