//! The one integration binary: what ships and what runs is tried here with the real programs around it.

mod alerting;
mod alertmanager;
mod architecture;
mod command_line;
mod dashboards;
mod differential;
mod documentation;
mod end_to_end;
mod errands;
mod exposition;
mod ledger;
mod metrics_reference;
mod page;
mod privileges;
mod promql;
mod queries;
mod reload;
mod rules;
mod selection;
mod siege;
mod support;
mod webhook;
