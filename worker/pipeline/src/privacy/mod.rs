//! Masks columns by class and environment; seals what goes to quarantine.
