//! The names of vendors, devices and classes in `pci.ids`, the list of the PCI ID project. Pure.

use std::collections::HashMap;

/// Names by number in lower-case hexadecimal without `0x`.
#[derive(Debug, Default)]
pub struct PciIds {
    vendors: HashMap<String, String>,
    /// By vendor and device.
    devices: HashMap<[String; 2], String>,
    /// By vendor, device, vendor of the subsystem and subsystem.
    subsystems: HashMap<[String; 4], String>,
    /// By 2, 4 or 6 digits.
    classes: HashMap<String, String>,
}

/// Number and name of a line, which two spaces divide.
fn entry(line: &str) -> Option<(String, String)> {
    let (number, name) = line.split_once("  ")?;
    Some((number.trim().to_lowercase(), name.trim().to_owned()))
}

impl PciIds {
    pub fn parse(text: &str) -> PciIds {
        let mut ids = PciIds::default();
        // The vendor and device, or the class and subclass, to which indented lines belong.
        let (mut first, mut second) = (String::new(), String::new());
        let mut is_class = false;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((number, name)) = entry(line.trim_start_matches('\t').trim_start_matches("C ")) else {
                continue;
            };
            match (line.starts_with("\t\t"), line.starts_with('\t'), is_class) {
                (true, _, true) => drop(ids.classes.insert(format!("{first}{second}{number}"), name)),
                (true, _, false) => {
                    let subsystem = number.split_once(' ').map(|(vendor, device)| (vendor, device.trim()));
                    if let Some((vendor, device)) = subsystem {
                        let key = [&first, &second, &vendor.to_owned(), &device.to_owned()].map(String::clone);
                        ids.subsystems.insert(key, name);
                    }
                }
                (_, true, true) => {
                    ids.classes.insert(format!("{first}{number}"), name);
                    second = number;
                }
                (_, true, false) => {
                    ids.devices.insert([first.clone(), number.clone()], name);
                    second = number;
                }
                _ => {
                    is_class = line.starts_with("C ");
                    let names = if is_class { &mut ids.classes } else { &mut ids.vendors };
                    names.insert(number.clone(), name);
                    (first, second) = (number, String::new());
                }
            }
        }
        ids
    }

    /// The name, or the number where the list has none.
    pub fn vendor(&self, vendor: &str) -> String {
        self.vendors.get(vendor).cloned().unwrap_or_else(|| vendor.to_owned())
    }

    pub fn device(&self, vendor: &str, device: &str) -> String {
        let name = self.devices.get(&[vendor.to_owned(), device.to_owned()]);
        name.cloned().unwrap_or_else(|| device.to_owned())
    }

    pub fn subsystem(&self, vendor: &str, device: &str, subsystem: [&str; 2]) -> String {
        let key = [vendor, device, subsystem[0], subsystem[1]].map(str::to_owned);
        let name = self.subsystems.get(&key);
        name.cloned().unwrap_or_else(|| subsystem[1].to_owned())
    }

    /// The name of the interface, else of the subclass, else of the class.
    pub fn class(&self, class: &str) -> String {
        let mut names = [6, 4, 2]
            .into_iter()
            .filter_map(|digits| self.classes.get(class.get(..digits)?));
        names
            .next()
            .cloned()
            .unwrap_or_else(|| format!("Unknown class ({class})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number() {
        let ids = PciIds::parse(
            "# comment\n1022  AMD\n\t1634  Bridge\n\t\t17aa 5095  ThinkPad\n1af4  Red Hat\n\
             C 01  Mass storage\n\t08  Non-volatile\n\t\t02  NVM Express\n\t06  SATA\n",
        );
        assert_eq!(
            (ids.vendor("1022").as_str(), ids.vendor("9999").as_str()),
            ("AMD", "9999")
        );
        assert_eq!(
            (ids.device("1022", "1634").as_str(), ids.device("1af4", "1634").as_str()),
            ("Bridge", "1634")
        );
        assert_eq!(ids.subsystem("1022", "1634", ["17aa", "5095"]), "ThinkPad");
        assert_eq!(ids.subsystem("1022", "1634", ["17aa", "0001"]), "0001");
        for (class, name) in [
            ("010802", "NVM Express"),
            ("010899", "Non-volatile"),
            ("01ff00", "Mass storage"),
            ("ff0000", "Unknown class (ff0000)"),
        ] {
            assert_eq!(ids.class(class), name);
        }
    }
}
