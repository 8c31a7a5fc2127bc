//! The only door to the kernel: typed, safe from outside, and ignorant of what a server is.
//!
//! Takes plain values and owned descriptors; gives owned descriptors, typed results and `std::io::Error`. No policy
//! lives here: which signal means what, when to fork and whom to kill is decided above. Every `unsafe` block of the
//! process floor stands in this folder.

pub mod boot;
pub mod epoll;
pub mod fault;
pub mod fd;
pub mod notify;
pub mod path;
pub mod piece;
pub mod poll;
pub mod privilege;
pub mod process;
pub mod robust;
pub mod shm;
pub mod signal;
pub mod socket;
pub mod time;
pub mod title;
