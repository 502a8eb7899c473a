use std::cell::RefCell;
use std::rc::Rc;

use super::host::{Host, Wanted};
use super::overlay::{Action, Author, BackendName, Change, ChangeError, Edit, Edits};
use super::view::HostProblem;
use super::*;
use crate::config::Config;
use crate::director::{BackendState, Takes};

/// A host of which nothing is real: the tests say what it has, and see what is asked of it.
#[derive(Debug, Default)]
struct Kernel {
    refuses: Option<&'static str>,
    fails_to_lead: bool,
    asked: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct FakeHost(Rc<RefCell<Kernel>>);

impl Host for FakeHost {
    fn refuse(&mut self, _: &Config) -> Result<()> {
        self.0.borrow().refuses.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
    }

    fn paths(&mut self, config: &Config) -> Result<Paths> {
        Ok(Paths::without_routes(config))
    }

    fn complete(&mut self, config: &Config, paths: &mut Paths) -> Result<()> {
        *paths = Paths::without_routes(config);
        Ok(())
    }

    fn paths_again(&mut self, config: &Config, _: &Paths) -> Result<(Paths, Vec<String>)> {
        Ok((Paths::without_routes(config), Vec::new()))
    }

    fn prepare(&mut self, _: &Config, _: &Paths, _: &Wanted) -> Result<()> {
        self.0.borrow_mut().asked.push("prepare".into());
        Ok(())
    }

    fn lead(&mut self, _: &Wanted) -> Result<Vec<String>> {
        let mut kernel = self.0.borrow_mut();
        kernel.asked.push("lead".into());
        if std::mem::take(&mut kernel.fails_to_lead) {
            anyhow::bail!("no route today");
        }
        Ok(Vec::new())
    }

    fn answer(&mut self, _: &Config) -> Result<()> {
        self.0.borrow_mut().asked.push("answer".into());
        Ok(())
    }

    fn device_mtu(&self) -> u32 {
        1500
    }

    fn problems(&mut self, _: &Config) -> Vec<HostProblem> {
        Vec::new()
    }
}

fn config(text: &str) -> Config {
    let vip = "[[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\n";
    Config::parse("f", &format!("{vip}{text}")).unwrap()
}

fn backends(list: &[(&str, u16)]) -> String {
    let backend = |(address, weight): &(&str, u16)| {
        format!("[[vip.backend]]\naddress = \"{address}\"\nweight = {weight}\n")
    };
    list.iter().map(backend).collect()
}

const A: &str = "10.0.1.11";
const B: &str = "10.0.1.12";

fn author() -> Author {
    Author {
        uid: 1000,
        user: Some("ann".into()),
        pid: Some(7),
    }
}

struct Fixture {
    control: Control<FakeHost>,
    kernel: Rc<RefCell<Kernel>>,
    /// The one worker's.
    counters: Arc<crate::director::Counters>,
    answers: Rc<RefCell<Vec<String>>>,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let host = FakeHost::default();
        let kernel = Rc::clone(&host.0);
        let mut beginning =
            Beginning::new(config(text), &mut host.clone(), Roster::default()).unwrap();
        let snapshot = Arc::clone(&beginning.current().load().snapshot);
        let seat = crate::director::Seat {
            worker: 0,
            workers: 1,
            seed: [1; 4],
        };
        let director = crate::director::Director::new(snapshot, &seat);
        let counters = Arc::clone(director.counters());
        beginning.roster.attach(Arc::clone(&counters));
        Self {
            control: beginning.control(host, Arc::default(), || ()),
            kernel,
            counters,
            answers: Rc::default(),
        }
    }
}
