//! How tables, sizes and progress look on a terminal.

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// An empty table with these headings, as wide as the terminal allows.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headings);
    table
}

/// A size for people, such as `1.50 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// A line on stderr that shows that work goes on; nothing where stderr is no terminal.
pub(crate) fn spinner(doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {msg}").expect("the template is constant");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style).with_prefix(doing);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
