import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;

/** CPU time in three methods, 70 to 20 to 10, below measured; before it the same below warm, until all is compiled and told. */
public class Hot {
    static double result;

    static void hot70() {
        result = burn(7);
    }

    static void hot20() {
        result = burn(2);
    }

    static void hot10() {
        result = burn(1);
    }

    static double burn(int n) {
        double x = 1;
        for (int i = 0; i < n * 100_000; i++) x = x * 1.0000001 + 0.5;
        return x;
    }

    static void warm() {
        hot70();
        hot20();
        hot10();
    }

    static void measure(ThreadMXBean threads, long[] sums) {
        long t0 = threads.getCurrentThreadCpuTime();
        hot70();
        long t1 = threads.getCurrentThreadCpuTime();
        hot20();
        long t2 = threads.getCurrentThreadCpuTime();
        hot10();
        long t3 = threads.getCurrentThreadCpuTime();
        sums[0] += t1 - t0;
        sums[1] += t2 - t1;
        sums[2] += t3 - t2;
    }

    public static void main(String[] args) {
        ThreadMXBean threads = ManagementFactory.getThreadMXBean();
        long second = 1_000_000_000L, start = System.nanoTime();
        long[] sums = new long[3];
        while (System.nanoTime() - start < 5 * second) {
            warm();
            measure(threads, new long[3]);
        }
        for (int i = 0; i < 20_000; i++) measured(threads, null); // compiled, too
        start = System.nanoTime();
        while (System.nanoTime() - start < 6 * second) measured(threads, sums);
        System.out.printf("Hot.hot70 %d%nHot.hot20 %d%nHot.hot10 %d%n", sums[0], sums[1], sums[2]);
    }

    static void measured(ThreadMXBean threads, long[] sums) {
        if (sums != null) measure(threads, sums);
    }
}
