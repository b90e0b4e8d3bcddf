//! Finding where a string stops, as fast as the machine can.
//!
//! In: the payload and a position inside a string. Out: the position of the first byte that a plain
//! string cannot hold: the closing quote, a backslash, or a control character (a line feed among them,
//! so that a scan never leaves its line), or the payload's length.
//!
//! Most strings are short, so the first 32 bytes are looked at with SSE2, which every x86-64 has, inline.
//! Long strings and skipped subtrees go to code compiled for AVX2 or AVX-512, chosen once a decoder.
//! Other machines use eight bytes at a time in plain Rust.
//!
//! This is the one module of the decoder that speaks to the machine: vector loads take raw pointers, and
//! code compiled for an instruction set may only run where it exists. Both are `unsafe` in Rust; every
//! block says why it is sound.
#![allow(unsafe_code, reason = "vector loads and target features; the module says why")]

use super::skip;

/// Something that finds where a string stops.
pub(super) trait Scan: Copy {
    /// The first position at or after `at` that holds a quote, a backslash or a control character.
    fn stop(self, bytes: &[u8], at: usize) -> usize;
}

/// What this machine can do. Only [`Isa::detect`] and [`Isa::every`] make one, so that holding a variant
/// proves that its instructions exist.
#[derive(Debug, Clone, Copy)]
pub(super) struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best that this machine has.
    pub(super) fn detect() -> Self {
        Self::every().pop().unwrap_or(Self(Level::Baseline))
    }

    /// All that this machine has, the best last.
    pub(super) fn every() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut every = vec![Self(Level::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1");
            if avx2 {
                every.push(Self(Level::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("bmi2")
            {
                every.push(Self(Level::Avx512));
            }
        }
        every
    }

    /// Skips one value; see [`skip::value`].
    #[inline]
    pub(super) fn skip(self, bytes: &[u8], at: usize, depth: &mut skip::Depth) -> Result<usize, usize> {
        match self.0 {
            Level::Baseline => skip::value(Baseline, bytes, at, depth),
            // SAFETY: the variant proves that the instructions exist.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::skip_avx2(bytes, at, depth) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::skip_avx512(bytes, at, depth) },
        }
    }
}

impl Scan for Isa {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn stop(self, bytes: &[u8], at: usize) -> usize {
        match x86::stop_within_32(bytes, at) {
            Some(found) => found,
            None => match self.0 {
                Level::Baseline => Baseline.stop(bytes, at),
                // SAFETY: the variant proves that the instructions exist.
                Level::Avx2 => unsafe { x86::stop_avx2(bytes, at) },
                // SAFETY: as above.
                Level::Avx512 => unsafe { x86::stop_avx512(bytes, at) },
            },
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn stop(self, bytes: &[u8], at: usize) -> usize {
        Baseline.stop(bytes, at)
    }
}

/// What every machine of the architecture can do.
#[derive(Clone, Copy)]
pub(super) struct Baseline;

impl Scan for Baseline {
    #[inline(always)]
    fn stop(self, bytes: &[u8], mut at: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
            let stops = x86::stops_16(block);
            if stops != 0 {
                return at + stops.trailing_zeros() as usize;
            }
            at += 16;
        }
        while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let stops = stops_8(u64::from_le_bytes(*word));
            if stops != 0 {
                return at + (stops.trailing_zeros() / 8) as usize;
            }
            at += 8;
        }
        while at < bytes.len() && !is_stop(bytes[at]) {
            at += 1;
        }
        at
    }
}

fn is_stop(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The high bit of every byte that stops a string, exact up to and including the lowest one.
#[inline(always)]
fn stops_8(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The classic zero-byte test: a borrow can only mark bytes above the first real one.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control) & HIGH
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Baseline, Scan, skip};

    #[inline(always)]
    fn stops(block: __m128i) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let quote = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'"' as i8));
            let escape = _mm_cmpeq_epi8(block, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(0x1f)), block);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, escape), control)) as u32
        }
    }

    #[inline(always)]
    pub(super) fn stops_16(block: &[u8; 16]) -> u32 {
        // SAFETY: the array holds the 16 bytes that are loaded, at any alignment.
        stops(unsafe { _mm_loadu_si128(block.as_ptr().cast()) })
    }

    /// The stop, when there is one in the next 32 bytes and they are all there.
    #[inline(always)]
    pub(super) fn stop_within_32(bytes: &[u8], at: usize) -> Option<usize> {
        let block = bytes.get(at..)?.first_chunk::<32>()?;
        // SAFETY: the array holds the 32 bytes that are loaded, at any alignment.
        let (low, high) = unsafe {
            let pointer = block.as_ptr().cast::<__m128i>();
            (_mm_loadu_si128(pointer), _mm_loadu_si128(pointer.add(1)))
        };
        let low = stops(low);
        if low != 0 {
            return Some(at + low.trailing_zeros() as usize);
        }
        let high = stops(high);
        (high != 0).then(|| at + 16 + high.trailing_zeros() as usize)
    }

    /// # Safety
    /// The machine has AVX2 and BMI1.
    #[target_feature(enable = "avx2,bmi1")]
    pub(super) unsafe fn stop_avx2(bytes: &[u8], at: usize) -> usize {
        Avx2.stop(bytes, at)
    }

    /// # Safety
    /// The machine has AVX-512 F and BW, BMI1 and BMI2.
    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2")]
    pub(super) unsafe fn stop_avx512(bytes: &[u8], at: usize) -> usize {
        Avx512.stop(bytes, at)
    }

    /// # Safety
    /// The machine has AVX2 and BMI1.
    #[target_feature(enable = "avx2,bmi1")]
    pub(super) unsafe fn skip_avx2(bytes: &[u8], at: usize, depth: &mut skip::Depth) -> Result<usize, usize> {
        skip::value(Avx2, bytes, at, depth)
    }

    /// # Safety
    /// The machine has AVX-512 F and BW, BMI1 and BMI2.
    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2")]
    pub(super) unsafe fn skip_avx512(
        bytes: &[u8],
        at: usize,
        depth: &mut skip::Depth,
    ) -> Result<usize, usize> {
        skip::value(Avx512, bytes, at, depth)
    }

    /// Only used inside the functions above, which are compiled for its instructions.
    #[derive(Clone, Copy)]
    struct Avx2;

    impl Scan for Avx2 {
        #[inline(always)]
        fn stop(self, bytes: &[u8], mut at: usize) -> usize {
            while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
                // SAFETY: the array holds the 32 bytes that are loaded, at any alignment; the callers of
                // this private type are compiled for AVX2 and run only where it exists.
                let stops = unsafe {
                    let block = _mm256_loadu_si256(block.as_ptr().cast());
                    let quote = _mm256_cmpeq_epi8(block, _mm256_set1_epi8(b'"' as i8));
                    let escape = _mm256_cmpeq_epi8(block, _mm256_set1_epi8(b'\\' as i8));
                    let control = _mm256_cmpeq_epi8(_mm256_min_epu8(block, _mm256_set1_epi8(0x1f)), block);
                    _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, escape), control)) as u32
                };
                if stops != 0 {
                    return at + stops.trailing_zeros() as usize;
                }
                at += 32;
            }
            Baseline.stop(bytes, at)
        }
    }

    /// Only used inside the functions above, which are compiled for its instructions.
    #[derive(Clone, Copy)]
    struct Avx512;

    impl Scan for Avx512 {
        #[inline(always)]
        fn stop(self, bytes: &[u8], mut at: usize) -> usize {
            while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<64>()) {
                // SAFETY: the array holds the 64 bytes that are loaded, at any alignment; the callers of
                // this private type are compiled for AVX-512 and run only where it exists.
                let stops = unsafe {
                    let block = _mm512_loadu_si512(block.as_ptr().cast());
                    let quote = _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(b'"' as i8));
                    let escape = _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(b'\\' as i8));
                    let control = _mm512_cmplt_epu8_mask(block, _mm512_set1_epi8(0x20));
                    quote | escape | control
                };
                if stops != 0 {
                    return at + stops.trailing_zeros() as usize;
                }
                at += 64;
            }
            Baseline.stop(bytes, at)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_finds_the_stop_that_a_byte_loop_finds(
            bytes in proptest::collection::vec(prop_oneof![20 => 0x20u8..=0xff, 1 => any::<u8>()], 0..300),
            at in 0usize..300,
        ) {
            let at = at.min(bytes.len());
            let slow = (at..bytes.len()).find(|&i| is_stop(bytes[i])).unwrap_or(bytes.len());
            prop_assert_eq!(Baseline.stop(&bytes, at), slow);
            for isa in Isa::every() {
                prop_assert_eq!(isa.stop(&bytes, at), slow, "{:?}", isa);
            }
        }
    }
}
