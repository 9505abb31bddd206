//! `minmax`: the least and the greatest finite number seen, exactly. Nothing is clipped; one outlier costs everybody
//! else resolution.

use super::Interval;
use super::sketch::Sketch;

/// The range; `None` if no finite number was seen.
pub fn range(sketch: &Sketch) -> Option<Interval> {
    sketch.extent()
}
