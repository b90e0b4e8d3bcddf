//! Bytes in: files and S3 objects, found, cut into splits, read and unpacked.
