//! The contract of `Server`, on real servers: everything is seen to work, and to be repeatable.

mod convert;
mod fences;
mod flow;
mod login;
mod small;
mod survey;
mod world;
