//! Great Expectations suites as one vectorised pass: row verdicts and mergeable statistics.
