//! What librdkafka has and its Rust layer has not: messages by the batch from an assigned partition, and topic ids.
//!
//! A message a call through the Rust layer costs an event, a reference count and two locks each; a batch costs one lock
//! a message less and no allocation. Partitions are started and stopped without a consumer group, so no group must
//! exist, nobody must be allowed to use one, and no rebalance can happen.
#![allow(
    unsafe_code,
    reason = "the Rust layer of librdkafka has no batches from a partition's queue and no topic ids"
)]

use std::ffi::{CString, c_char};
use std::ptr::{NonNull, addr_of};
use std::time::{Duration, Instant};

use rdkafka::bindings as rd;
use rdkafka::types::RDKafka;

/// Messages taken from the queue at once.
const BATCH: usize = 1024;

/// How long an answer is waited for in one go.
const ASK_TURN_MS: i32 = 100;

/// librdkafka's code for "no error"; negative codes are its own, positive ones the brokers'.
const NO_ERROR: i32 = 0;
const PARTITION_EOF: i32 = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;

/// An error by its number: brokers know numbers that this build may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) i32);

impl Code {
    /// The code of one of librdkafka's names.
    pub(super) const fn of(error: rd::rd_kafka_resp_err_t) -> Self {
        Self(error as i32)
    }
}

/// What came from a partition.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fetched<'a> {
    /// A message, perhaps without payload.
    Message {
        /// Its offset.
        offset: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// The end of the log as far as it may be read: the next message will have this offset or a later one.
    End {
        /// That offset.
        offset: u64,
    },
    /// Something went wrong.
    Failed {
        /// What.
        code: Code,
        /// In words. They name places, no content.
        words: &'a str,
    },
}

/// A partition that is being fetched. Stops when dropped. The client must outlive it, which `'client` says.
#[derive(Debug)]
pub(super) struct Fetch<'client> {
    topic: NonNull<rd::rd_kafka_topic_t>,
    queue: NonNull<rd::rd_kafka_queue_t>,
    partition: i32,
    is_started: bool,
    batch: Vec<*mut rd::rd_kafka_message_t>,
    _client: std::marker::PhantomData<&'client RDKafka>,
}

impl<'client> Fetch<'client> {
    /// Starts to fetch a partition from `offset` on. The client must fetch this partition nowhere else.
    pub(super) fn start(
        client: &'client super::client::Consumer,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Self, Code> {
        let invalid = Code::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG);
        let name = CString::new(topic).map_err(|_| invalid)?;
        let handle = client.native();
        // SAFETY: `handle` is a live client for as long as `'client`; `name` ends with a zero byte; null means the
        // client's own configuration.
        let topic = unsafe { rd::rd_kafka_topic_new(handle, name.as_ptr(), std::ptr::null_mut()) };
        let topic = NonNull::new(topic).ok_or_else(last_error)?;
        // SAFETY: `handle` is a live client.
        let Some(queue) = NonNull::new(unsafe { rd::rd_kafka_queue_new(handle) }) else {
            // SAFETY: made above, used by nobody.
            unsafe { rd::rd_kafka_topic_destroy(topic.as_ptr()) };
            return Err(last_error());
        };
        let mut fetch = Self {
            topic,
            queue,
            partition,
            is_started: false,
            batch: vec![std::ptr::null_mut(); BATCH],
            _client: std::marker::PhantomData,
        };
        // SAFETY: topic and queue are live until `fetch` is dropped, which stops the fetching first.
        let started =
            unsafe { rd::rd_kafka_consume_start_queue(topic.as_ptr(), partition, offset, queue.as_ptr()) };
        if started == -1 {
            return Err(last_error());
        }
        fetch.is_started = true;
        Ok(fetch)
    }

    /// Hands over what has come, waiting at most `wait` where nothing has. Returns how much came.
    pub(super) fn next(&mut self, wait: Duration, take: &mut dyn FnMut(Fetched<'_>)) -> usize {
        // A call waits until the batch is full, so it is only made to wait for the first one.
        let mut count = self.fill(Duration::ZERO, BATCH);
        if count == 0 {
            count = self.fill(wait, 1);
        }
        for slot in &mut self.batch[..count] {
            let message = std::mem::replace(slot, std::ptr::null_mut());
            if let Some(message) = NonNull::new(message) {
                let message = Message(message);
                take(message.fetched());
            }
        }
        count
    }

    fn fill(&mut self, wait: Duration, most: usize) -> usize {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is live; `batch` has room for `most` pointers.
        let count = unsafe {
            rd::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                wait,
                self.batch.as_mut_ptr(),
                most.min(self.batch.len()),
            )
        };
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        if self.is_started {
            // SAFETY: started in `start`, stopped once.
            unsafe { rd::rd_kafka_consume_stop(self.topic.as_ptr(), self.partition) };
        }
        // SAFETY: both were made in `start` and are used by nobody any more; what the queue still holds goes with it.
        unsafe {
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
            rd::rd_kafka_topic_destroy(self.topic.as_ptr());
        }
    }
}

/// A message that librdkafka lent us.
struct Message(NonNull<rd::rd_kafka_message_t>);

impl Message {
    fn fetched(&self) -> Fetched<'_> {
        let message = self.0.as_ptr();
        // SAFETY: the message is live until dropped. The code is read as the number it is: a broker may send one for
        // which the enum has no name.
        let (code, offset, bytes, length) = unsafe {
            (
                addr_of!((*message).err).cast::<i32>().read(),
                (*message).offset,
                (*message).payload.cast::<u8>(),
                (*message).len,
            )
        };
        let offset = u64::try_from(offset).unwrap_or(0);
        let payload: &[u8] = if bytes.is_null() {
            &[]
        } else {
            // SAFETY: librdkafka says that `len` bytes stand there, and they stay while the message does.
            unsafe { std::slice::from_raw_parts(bytes, length) }
        };
        match code {
            NO_ERROR => Fetched::Message { offset, payload },
            PARTITION_EOF => Fetched::End { offset },
            code => Fetched::Failed {
                code: Code(code),
                words: std::str::from_utf8(payload).unwrap_or("no words"),
            },
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: lent to us by the queue, given back once.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// The code of the last failed call on this thread.
fn last_error() -> Code {
    // SAFETY: reads a thread-local number.
    Code::of(unsafe { rd::rd_kafka_last_error() })
}

/// The id that the topic got when it was made, as the broker writes it: two halves. Both zero where brokers give none.
/// `go_on` is asked now and then whether to wait on.
pub(super) fn topic_id(
    client: &super::client::Consumer,
    topic: &str,
    wait: Duration,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(u64, u64), Code> {
    let invalid = Code::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG);
    let timed_out = Code::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT);
    let name = CString::new(topic).map_err(|_| invalid)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    let deadline = Instant::now() + wait;
    let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is live; every handle made here is destroyed below, after its last use; the collection copies
    // the names; the event owns the result and all that is read from it, and is destroyed last.
    unsafe {
        let handle = client.native();
        let queue = rd::rd_kafka_queue_new(handle);
        let names = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let options =
            rd::rd_kafka_AdminOptions_new(handle, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, wait, std::ptr::null_mut(), 0);
        rd::rd_kafka_DescribeTopics(handle, names, options, queue);
        let mut event = rd::rd_kafka_queue_poll(queue, ASK_TURN_MS);
        while event.is_null() && Instant::now() < deadline && go_on() {
            event = rd::rd_kafka_queue_poll(queue, ASK_TURN_MS);
        }
        let id = if event.is_null() {
            Err(timed_out)
        } else {
            let id = described_id(event);
            rd::rd_kafka_event_destroy(event);
            id
        };
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_TopicCollection_destroy(names);
        rd::rd_kafka_queue_destroy(queue);
        id
    }
}

/// The id in the answer.
///
/// # Safety
/// `event` must be the live answer to a request that describes one topic.
unsafe fn described_id(event: *mut rd::rd_kafka_event_t) -> Result<(u64, u64), Code> {
    let failed = Code::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL);
    // SAFETY: the caller's promise; every pointer is part of the answer and checked before it is followed.
    unsafe {
        let error = rd::rd_kafka_event_error(event) as i32;
        if error != NO_ERROR {
            return Err(Code(error));
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(failed);
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count != 1 {
            return Err(failed);
        }
        let topic = *topics;
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = rd::rd_kafka_error_code(error) as i32;
            if code != NO_ERROR {
                return Err(Code(code));
            }
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Ok((0, 0));
        }
        Ok((
            rd::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
            rd::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
        ))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use rdkafka::types::RDKafkaRespErr;
        match RDKafkaRespErr::try_from(self.0) {
            Ok(known) => write!(f, "{}", rdkafka::types::RDKafkaErrorCode::from(known)),
            Err(_) => write!(f, "error {}", self.0),
        }
    }
}
