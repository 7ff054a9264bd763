//! Verifying that no page is missing, and telling what has expired from what is lost.

use super::{Report, Severity};
use crate::catalog::Catalog;
use crate::layout::PageName;
use crate::position::Offset;

/// The offset below which the log of a history may have expired: it holds nothing that the oldest
/// complete snapshot needs. `None` when nothing of it may be missing.
pub(super) fn expired_below(catalog: &Catalog, index: usize) -> Option<Offset> {
    let oldest = catalog.histories.iter().position(|history| !history.snapshots.is_empty())?;
    match index.cmp(&oldest) {
        std::cmp::Ordering::Less => Some(Offset(u64::MAX)),
        std::cmp::Ordering::Equal => catalog.histories[index].snapshots.first().map(|snapshot| snapshot.offset),
        std::cmp::Ordering::Greater => None,
    }
}

/// Checks that the pages of each term count from 0 without a hole, over all histories; `pages` are in
/// order of term and number.
pub(super) fn check(catalog: &Catalog, pages: &[PageName], report: &mut Report) {
    let mut before: Option<&PageName> = None;
    for page in pages {
        let follows = before.filter(|before| before.term == page.term).map_or(0, |before| before.number + 1);
        before = Some(page);
        if page.number == follows {
            continue;
        }
        if page.number < follows {
            report.add(Severity::Damage, format!("log/{page}"), "another page has the same number");
            continue;
        }
        let (term, last) = (page.term, page.number - 1);
        let missing = format!("the pages {follows:06} to {last:06} of term {term} before it are missing");
        let index = catalog.histories.iter().position(|history| history.start.history == page.history);
        let expired = index.and_then(|index| expired_below(catalog, index)).is_some_and(|below| page.start <= below);
        if expired {
            report.note(format!("log/{page}"), format!("{missing}: expired, no snapshot needs them"));
        } else {
            report.add(Severity::Damage, format!("log/{page}"), missing);
        }
    }
}
