//! Throwaway clusters for the demo, the tests and the benchmarks: real servers, started and removed here.
