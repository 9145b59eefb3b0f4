import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.Scanner;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;

/** Does what a line of its standard input says, and prints a line when it is done. What each command costs is known. */
public class Workload {
  static final List<Object> kept = new ArrayList<>();
  static final List<Object> more = new ArrayList<>();
  static final Random random = new Random(1);
  static volatile Object sink;
  static volatile double result;

  static class Node {
    long a, b, c;
    Node next;
  }

  // Sites of known sizes, called in the shares 50, 30 and 20.
  static Object half() { return new byte[2_000]; }

  static Object third() { return new byte[2_000]; }

  static Object fifth() { return new byte[2_000]; }

  static Object large() { return new long[250_000]; }

  static Object nodes() {
    Node first = null;
    for (int i = 0; i < 1000; i++) {
      Node n = new Node();
      n.next = first;
      first = n;
    }
    return first;
  }

  // In an order of no period, which the sizes of TLABs could be in step with.
  static void keep(long megabytes, List<Object> list) {
    List<Integer> order = new ArrayList<>();
    for (int i = 0; i < megabytes * 500; i++) order.add(i % 10);
    Collections.shuffle(order, random);
    for (int n : order) list.add(n < 5 ? half() : n < 8 ? third() : fifth());
  }

  static void leak() {
    more.add(new byte[2_000]);
  }

  static void churn() {
    for (int i = 0; i < 100; i++) {
      if (i % 10 == 0) sink = new int[250];
      else sink = new byte[1000];
    }
  }

  static void seventy() {
    double x = 1;
    for (int i = 0; i < 7_000_000; i++) x = x * 1.0000001 + 0.5;
    result = x;
  }

  static void thirty() {
    double x = 1;
    for (int i = 0; i < 3_000_000; i++) x = x * 1.0000001 + 0.5;
    result = x;
  }

  static void burn(long rounds) {
    for (long i = 0; i < rounds; i++) {
      seventy();
      thirty();
    }
  }

  // 500 objects a second are 1 MB/s; beside them ten times as much is garbage.
  static void leakSlowly(long seconds) throws InterruptedException {
    long start = System.nanoTime();
    for (long n = 0; n < 100 * seconds; n++) {
      int left = 5;
      for (int i = 0; i < 100; i++) {
        if (random.nextInt(100 - i) < left) {
          leak();
          left--;
        }
        sink = new byte[1000];
      }
      while (System.nanoTime() < start + n * 10_000_000) Thread.sleep(1);
    }
  }

  static long allocated() {
    com.sun.management.ThreadMXBean mx = (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
    long sum = 0;
    for (long n : mx.getThreadAllocatedBytes(mx.getAllThreadIds())) sum += Math.max(n, 0);
    return sum;
  }

  // Each thread allocates 1 MB; four at a time. Virtual threads are not in the API that this is compiled for.
  static void churnInThreads(long megabytes, String kind) throws Exception {
    ExecutorService threads =
        kind.equals("virtual")
            ? (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null)
            : Executors.newCachedThreadPool();
    Semaphore four = new Semaphore(4);
    for (long i = 0; i < megabytes; i++) {
      four.acquire();
      threads.execute(
          () -> {
            for (int k = 0; k < 10; k++) churn();
            four.release();
          });
      Thread.sleep(5);
    }
    four.acquire(4);
    threads.shutdown();
  }

  static void parallel(int n, Runnable r) throws InterruptedException {
    List<Thread> threads = new ArrayList<>();
    for (int i = 0; i < n; i++) threads.add(new Thread(r));
    for (Thread t : threads) t.start();
    for (Thread t : threads) t.join();
  }

  public static void main(String[] args) throws Exception {
    allocated();
    System.out.println("ready");
    Scanner in = new Scanner(System.in);
    while (in.hasNextLine()) {
      final String[] words = in.nextLine().split(" ");
      long n = words.length > 1 ? Long.parseLong(words[1]) : 0;
      String answer = "done";
      switch (words[0]) {
        case "keep": keep(n, kept); break;
        case "keep-more": keep(n, more); break;
        case "keep-large": for (long i = 0; i < n / 2; i++) kept.add(large()); break;
        case "keep-nodes": for (long i = 0; i < n * 25; i++) kept.add(nodes()); break;
        case "free": kept.clear(); break;
        case "churn": for (long i = 0; i < n * 10; i++) churn(); break;
        case "churn-slowly":
          for (long i = 0; i < n * 10; i++) {
            churn();
            Thread.sleep(1);
          }
          break;
        case "churn-threads": churnInThreads(n, words[2]); break;
        case "allocated": answer = Long.toString(allocated()); break;
        case "burn": parallel((int) n, () -> burn(Long.parseLong(words[2]))); break;
        case "leak": leakSlowly(n); break;
        default: answer = "unknown";
      }
      System.out.println(answer);
    }
  }
}
