//! The report: one self-contained page that anybody can open, and its JSON twin.
//!
//! [`Report`] holds everything; [`html`] embeds it as JSON in a page whose style and code are in `page/` and which loads
//! nothing. The page draws its charts as inline SVG, follows the reader's choice of light or dark, and works with a
//! keyboard, a screen reader and a printer. Nothing here runs a model.

mod build;
pub mod low_bit;
pub mod schema;

use anyhow::Result;

pub use build::{Facts, Measured, build};
pub use schema::Report;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which the browser must read them.
const CODE: &[&str] = &[
    include_str!("page/base.js"),
    include_str!("page/front.js"),
    include_str!("page/graph.js"),
    include_str!("page/layers.js"),
    include_str!("page/values.js"),
    include_str!("page/weights.js"),
    include_str!("page/main.js"),
];

/// The JSON twin.
///
/// # Errors
/// None that data can cause.
pub fn json(report: &Report) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)?)
}

/// The page.
///
/// # Errors
/// None that data can cause.
pub fn html(report: &Report) -> Result<String> {
    // Within a script element only `</` and `<!` end or change what follows: names of a model may hold either.
    let data = serde_json::to_string(report)?.replace('<', "\\u003c");
    let title = escape(&report.model);
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + data.len() + 64 * 1024);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let Some((slot, after)) = after.split_once("}}") else { break };
        match slot {
            "title" => page.push_str(&title),
            "style" => page.push_str(STYLE),
            "data" => page.push_str(&data),
            "code" => CODE.iter().for_each(|part| page.push_str(part)),
            _ => {}
        }
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        let model = "</script><script>alert(1)</script>&{{data}}".to_string();
        let page = html(&Report { model, ..Report::default() }).unwrap();
        assert_eq!(page.matches("</script>").count(), 2, "the page's own: data and code");
        assert!(page.contains("&lt;/script&gt;"));
        assert_eq!(page.matches("\"schema\":").count(), 1, "the data stand there once");
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = html(&Report::default()).unwrap();
        // The name of the SVG language looks like an address and is none.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for way in ["http:", "https:", "src=", "@import", "url(", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(way), "{way}");
        }
    }

    #[test]
    fn the_twin_reads_back() {
        let report = Report { schema: schema::SCHEMA, notes: vec!["a".into()], ..Report::default() };
        assert_eq!(serde_json::from_str::<Report>(&json(&report).unwrap()).unwrap(), report);
    }
}
