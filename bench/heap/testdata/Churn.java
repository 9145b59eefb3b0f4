import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.HashMap;
import java.util.Map;
import java.util.Scanner;

/**
 * Allocates, and does little else, with some 40 MB that live. For each line of its standard input, a number of milliseconds, it
 * works that long and prints how often it has allocated, its processor time and the time in nanoseconds.
 */
public class Churn {
  static final class Entry {
    final byte[] payload;
    final String name;

    Entry(byte[] payload, String name) {
      this.payload = payload;
      this.name = name;
    }
  }

  static final int LIVE = 50_000;
  static final Map<Integer, Entry> kept = new HashMap<>();
  static long seed = 88172645463325252L;
  static volatile int sum;

  static long draw() {
    seed ^= seed << 13;
    seed ^= seed >>> 7;
    return seed ^= seed << 17;
  }

  static Entry entry(long x) {
    return new Entry(new byte[256 + (int) (x & 511)], Long.toHexString(x));
  }

  static long work() {
    int s = 0;
    for (int i = 0; i < 256; i++) {
      long x = draw();
      Entry e = entry(x);
      for (byte b : e.payload) s += b;
      s += e.name.hashCode();
      if ((x >>> 60) == 0) kept.put((int) ((x >>> 32) % LIVE), e);
    }
    sum = s;
    return 4 * 256; // the entry, its payload, the name and the name's bytes
  }

  public static void main(String[] args) {
    OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    for (int i = 0; i < LIVE; i++) kept.put(i, entry(draw()));
    Scanner lines = new Scanner(System.in);
    while (lines.hasNextLong()) {
      long ms = lines.nextLong();
      long used = system.getProcessCpuTime();
      long began = System.nanoTime();
      long until = began + ms * 1_000_000;
      long n = 0;
      while (System.nanoTime() < until) n += work();
      System.out.println(n + " " + (system.getProcessCpuTime() - used) + " " + (System.nanoTime() - began));
    }
  }
}
