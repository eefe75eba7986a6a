"""The codec's tests: foreign bytes (kio, kafka-python, librdkafka), parity, frames and fuzzing."""
