//! Connections to servers of our own making, and to real ones.

#[cfg(test)]
mod certificates;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod live;
