//! The one integration binary: what ships and what runs is tried here with the real programs around it.

mod alerting;
mod alertmanager;
mod architecture;
mod command_line;
mod differential;
mod end_to_end;
mod exposition;
mod ledger;
mod promql;
mod reload;
mod rules;
mod selection;
mod siege;
mod support;
mod webhook;
