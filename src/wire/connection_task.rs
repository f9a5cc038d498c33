//! One task for a connection, and for those of its calls that it runs itself.
//!
//! A call with a task of its own is woken by its connection's task for what has come, and wakes it for what is to be sent.
//! Wherever two threads of the runtime take the two by turns, a thread is woken each time, and what one of them has in its
//! core's cache the other one needs (ADR 33). A call that the connection's task runs costs neither.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};
use hyper::rt::Executor;
use tokio::task::coop;

use crate::core::bell::Bell;

/// So often what the task runs is polled again, where it has woken itself, before other tasks get their turn.
const ROUNDS_MAX: usize = 64;
/// So many calls it runs at once; more have tasks of their own, which other cores can take. Of thousands that come together each
/// would be gone from the cache when its turn comes.
const RUN_MAX: usize = 256;

/// Starts the calls of one connection, for hyper: as tasks, or to be run by the connection's.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Started>>);

#[derive(Default)]
struct Started {
    /// The connection's task runs the next one, if it has room.
    run_next: bool,
    /// How many it runs, itself among them.
    running: usize,
    to_run: Vec<BoxFuture<'static, ()>>,
}

impl Calls {
    /// The connection's task runs the next call that is started, if it does not run too many.
    pub fn run_next(&self) {
        self.started().run_next = true;
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.0.lock().expect("no holder panics")
    }
}

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let mut started = self.started();
        let has_room = started.running + started.to_run.len() <= RUN_MAX;
        if std::mem::take(&mut started.run_next) && has_room {
            // As where a task panics: the call ends, the connection does not.
            started.to_run.push(AssertUnwindSafe(call).catch_unwind().map(drop).boxed());
        } else {
            drop(started);
            tokio::spawn(call);
        }
    }
}

/// Runs a connection and its calls, to the end of all.
pub struct ConnectionTask {
    /// Those to be run, which the connection starts.
    calls: Calls,
    /// The connection, and the calls that are run.
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    alarm: Arc<Alarm>,
    /// Sets off `alarm`.
    waker: Waker,
    /// What is done at the end of each turn.
    end_turn: Box<dyn Fn() + Send>,
}

impl ConnectionTask {
    /// Of a connection that starts its calls with `calls`. At the end of each turn it does `end_turn`.
    pub fn new(
        connection: impl Future<Output = ()> + Send + 'static,
        calls: Calls,
        end_turn: impl Fn() + Send + 'static,
    ) -> Self {
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(Arc::clone(&alarm));
        let running = [connection.boxed()].into_iter().collect();
        Self { calls, running, alarm, waker, end_turn: Box::new(end_turn) }
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.task.register(context.waker());
        for _ in 0..ROUNDS_MAX {
            self.alarm.bell.attend();
            let mut inner = Context::from_waker(&self.waker);
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(&mut inner) {}
            let mut started = self.calls.started();
            let nothing_new = started.to_run.is_empty();
            self.running.extend(started.to_run.drain(..));
            started.running = self.running.len();
            drop(started);
            if self.running.is_empty() {
                return Poll::Ready(());
            }
            if nothing_new && self.alarm.bell.leave() {
                return Poll::Pending;
            }
            // Whoever has none left is told again and again that there is something to do.
            if !coop::has_budget_remaining() {
                break;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.turn(context);
        (this.end_turn)();
        polled
    }
}

/// Wakes the task, but not for what it tells itself while it runs: the runtime would take it for a task that gives way to
/// others, and wake a thread for it.
#[derive(Default)]
struct Alarm {
    bell: Bell,
    task: AtomicWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.bell.ring() {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::poll_fn;
    use tokio::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Runtime(AtomicUsize);

    impl Wake for Runtime {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Runtime {
        fn poll(self: &Arc<Self>, task: &mut ConnectionTask) -> Poll<()> {
            Pin::new(task).poll(&mut Context::from_waker(&Arc::clone(self).into()))
        }

        fn wakes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    type Hands = (Sender<u32>, Receiver<u32>);

    fn two() -> (Hands, Hands) {
        let (there, from_one) = channel(1);
        let (back, from_other) = channel(1);
        ((there, from_other), (back, from_one))
    }

    /// Gives back what comes, one more, up to `last`.
    async fn play((to, mut from): Hands, last: u32) {
        while let Some(number) = from.recv().await {
            if number >= last || to.try_send(number + 1).is_err() {
                return;
            }
        }
    }

    /// A connection that starts `call` and then is what `itself` is.
    fn connection(
        call: impl Future<Output = ()> + Send + 'static,
        itself: impl Future<Output = ()> + Send + 'static,
    ) -> ConnectionTask {
        let calls = Calls::default();
        let started = calls.clone();
        ConnectionTask::new(
            async move {
                started.run_next();
                started.execute(call);
                itself.await;
            },
            calls,
            || {},
        )
    }

    /// Seen to fail where the alarm always wakes the task.
    #[test]
    fn what_it_tells_itself_wakes_nobody() {
        let (one, other) = two();
        one.0.try_send(0).expect("the other is there");
        let mut task = connection(play(other, 20), play(one, 20));
        let runtime = Arc::new(Runtime::default());
        assert_eq!(runtime.poll(&mut task), Poll::Ready(()));
        assert_eq!(runtime.wakes(), 0);
    }

    #[test]
    fn what_comes_from_elsewhere_wakes_it() {
        let (one, other) = two();
        let mut task = connection(play(other, 1), async {});
        let runtime = Arc::new(Runtime::default());
        assert_eq!(runtime.poll(&mut task), Poll::Pending);
        assert_eq!(runtime.wakes(), 0);
        one.0.try_send(0).expect("it is there");
        assert_eq!(runtime.wakes(), 1);
        assert_eq!(runtime.poll(&mut task), Poll::Pending);
        drop(one);
        assert_eq!(runtime.wakes(), 2);
        assert_eq!(runtime.poll(&mut task), Poll::Ready(()));
    }

    /// Seen not to end without the bound.
    #[test]
    fn it_gives_way_to_other_tasks() {
        let restless = poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let mut task = connection(async {}, restless);
        let runtime = Arc::new(Runtime::default());
        assert_eq!(runtime.poll(&mut task), Poll::Pending);
        assert_eq!(runtime.wakes(), 1);
    }

    /// Seen to fail where it is done only where there is more to come.
    #[test]
    fn each_turn_has_an_end() {
        let (one, other) = two();
        let ends = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ends);
        let end_turn = move || _ = counted.fetch_add(1, Ordering::Relaxed);
        let mut task = ConnectionTask::new(play(other, 1), Calls::default(), end_turn);
        let runtime = Arc::new(Runtime::default());
        assert_eq!(runtime.poll(&mut task), Poll::Pending);
        assert_eq!(ends.load(Ordering::Relaxed), 1);
        drop(one);
        assert_eq!(runtime.poll(&mut task), Poll::Ready(()));
        assert_eq!(ends.load(Ordering::Relaxed), 2);
    }

    /// Seen to fail where the panic is not caught.
    #[test]
    fn a_call_that_panics_leaves_the_connection() {
        let (one, other) = two();
        one.0.try_send(0).expect("the other is there");
        let mut task = connection(async { panic!("on purpose") }, play(other, 1));
        let runtime = Arc::new(Runtime::default());
        assert_eq!(runtime.poll(&mut task), Poll::Pending);
        drop(one);
        assert_eq!(runtime.poll(&mut task), Poll::Ready(()));
    }

    #[tokio::test]
    async fn other_calls_have_tasks_of_their_own() {
        let (tell, mut told) = channel(2);
        let calls = Calls::default();
        let started = calls.clone();
        let connection = async move {
            for is_run in [false, true] {
                let tell = tell.clone();
                if is_run {
                    started.run_next();
                }
                started.execute(async move {
                    tell.try_send((is_run, tokio::task::try_id())).expect("it is waited for");
                });
            }
        };
        // This test is no task.
        ConnectionTask::new(connection, calls, || {}).await;
        assert_eq!(told.recv().await, Some((true, None)));
        assert!(matches!(told.recv().await, Some((false, Some(_)))));
    }

    /// Seen to fail without the bound.
    #[tokio::test]
    async fn of_very_many_calls_some_have_tasks_of_their_own() {
        const CALLS: usize = 2 * RUN_MAX;
        let (tell, mut told) = channel(CALLS);
        let calls = Calls::default();
        let started = calls.clone();
        let connection = async move {
            // The first ones run when the others come.
            for _ in 0..2 {
                for _ in 0..CALLS / 2 {
                    let tell = tell.clone();
                    started.run_next();
                    started.execute(async move {
                        tokio::task::yield_now().await;
                        tell.try_send(tokio::task::try_id()).expect("there is room");
                    });
                }
                let mut waited = false;
                poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut waited, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        };
        ConnectionTask::new(connection, calls, || {}).await;
        let mut run = 0;
        while let Some(task) = told.recv().await {
            run += usize::from(task.is_none());
        }
        assert!((RUN_MAX..CALLS).contains(&run), "{run}");
    }
}
