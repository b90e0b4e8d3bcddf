-- Sort key: declared. Blocks outside of a query range are skipped, so its first column stays raw.
-- Distribution key: declared. Rows that are joined by it lie together.
CREATE TABLE IF NOT EXISTS analytics."order" (
    event_time TIMESTAMPTZ ENCODE az64 NOT NULL,
    "user" VARCHAR(65535) ENCODE raw NOT NULL,
    "Ünïcode ""x""" SUPER ENCODE zstd NOT NULL,
    flag BOOLEAN ENCODE zstd,
    small INTEGER ENCODE az64 NOT NULL,
    big BIGINT ENCODE az64 NOT NULL,
    ratio DOUBLE PRECISION ENCODE zstd NOT NULL,
    price DECIMAL(12,2) ENCODE az64 NOT NULL,
    day DATE ENCODE az64 NOT NULL,
    "order" SUPER ENCODE zstd NOT NULL,
    address VARCHAR(65535) ENCODE zstd NOT NULL,
    date DATE ENCODE az64 NOT NULL,
    hour INTEGER ENCODE bytedict NOT NULL,
    source VARCHAR(65535) ENCODE zstd
)
DISTSTYLE KEY
DISTKEY ("user")
COMPOUND SORTKEY ("user", event_time);

COMMENT ON COLUMN analytics."order".event_time IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order"."user" IS 'it''s <script>alert(''x'')</script> & "more" | `y`. Personal data (email address): outside <prod>, replaced by a keyed code that keeps the domain after the @';
COMMENT ON COLUMN analytics."order"."Ünïcode ""x""" IS 'it''s <script>alert(''x'')</script> & "more" | `y`. Personal data (free text): outside <prod>, replaced by [redacted]';
COMMENT ON COLUMN analytics."order".flag IS 'it''s <script>alert(''x'')</script> & "more" | `y`. Personal data (personal identifier): outside <prod>, left empty';
COMMENT ON COLUMN analytics."order".small IS 'it''s <script>alert(''x'')</script> & "more" | `y`. Personal data (personal identifier): outside <prod>, replaced by a keyed code; equal values get equal codes';
COMMENT ON COLUMN analytics."order".big IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order".ratio IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order".price IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order".day IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order"."order" IS 'it''s <script>alert(''x'')</script> & "more" | `y`';
COMMENT ON COLUMN analytics."order".address IS 'it''s <script>alert(''x'')</script> & "more" | `y`. Personal data (IP address): outside <prod>, cut to its network';
COMMENT ON COLUMN analytics."order".date IS 'Day of the event time, UTC';
COMMENT ON COLUMN analytics."order".hour IS 'Hour of the event time, UTC, 0 to 23';
COMMENT ON COLUMN analytics."order".source IS 'Where the event comes from, as the lake''s folders are named';

CREATE TABLE IF NOT EXISTS analytics.millrace_loads (
    pipeline VARCHAR(63) NOT NULL ENCODE zstd,
    batch VARCHAR(63) NOT NULL ENCODE raw,
    attempt VARCHAR(63) NOT NULL ENCODE zstd,
    manifest_digest VARCHAR(64) NOT NULL ENCODE zstd,
    "rows" BIGINT NOT NULL ENCODE az64,
    loaded_at TIMESTAMPTZ NOT NULL DEFAULT SYSDATE ENCODE az64,
    PRIMARY KEY (pipeline, batch)
)
DISTSTYLE ALL
COMPOUND SORTKEY (batch);
