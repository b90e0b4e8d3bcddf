//! The allocator, and how long it keeps memory: as long as the process lives, but for a coordinator.
//!
//! A run takes and gives back column buffers of some MiB with every batch. Memory that goes back to the
//! kernel in between comes back page by page, each zeroed: that was 28% of a run's CPU time. What a run
//! needs at its peak it needs until its end, so keeping it costs nothing.

#![allow(unsafe_code, reason = "mimalloc's options are set through its C interface")]

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_eager_commit` of mimalloc's `mimalloc.h`, which the bindings leave out.
const ARENA_EAGER_COMMIT: mi_option_t = 4;
/// `mi_option_purge_delay` of the same header.
const PURGE_DELAY: mi_option_t = 15;
const NEVER: c_long = -1;

/// Sets both before anything is allocated: how the first memory is taken decides the rest. The loader
/// calls it on the way to `main`.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static KEEP_MEMORY: extern "C" fn() = keep_memory;

extern "C" fn keep_memory() {
    for (option, value) in [(ARENA_EAGER_COMMIT, 1), (PURGE_DELAY, NEVER)] {
        // SAFETY: both options exist in the linked version; setting one is a store to the process's table
        // of options, which needs no initialisation and allocates nothing.
        unsafe { mi_option_set(option, value) };
    }
}

/// How long a coordinator keeps memory that it does not use, in milliseconds.
const SHORTLY: c_long = 1_000;

/// For a process that lives for months and needs much memory for minutes: what is free goes back to the kernel.
pub(crate) fn give_back() {
    // SAFETY: as above; the option may be set at any time.
    unsafe { mi_option_set(PURGE_DELAY, SHORTLY) };
}
