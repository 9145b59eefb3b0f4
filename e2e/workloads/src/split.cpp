// C++ as people write it: main → Service::serve (virtual) → Engine<Policy>::turn → Fast::work → hot70,
// hot20, hot10; then a std::function throws through the engine, and serve catches.
#include "work.h"
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

namespace demo {

struct Done : std::runtime_error {
	uint64_t value;
	explicit Done(uint64_t v) : std::runtime_error("done"), value(v) {}
};

KEEP uint64_t hot70(uint64_t x, uint64_t n) { WORK(x, n, HOT70); return x; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { WORK(x, n, HOT20); return x; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { WORK(x, n, HOT10); return x; }

struct Fast {
	KEEP static uint64_t work(uint64_t x)
	{
		x += hot70(x, 7 * UNIT);
		x += hot20(x, 2 * UNIT);
		x += hot10(x, 1 * UNIT);
		return x;
	}
};

template <typename Policy> class Engine {
	std::string name = "an engine whose destructor runs while the exception passes";

      public:
	KEEP uint64_t turn(uint64_t x, const std::function<uint64_t(uint64_t)> &each)
	{
		std::string copy = name + std::to_string(x);
		uint64_t y = each(Policy::work(x) + copy.size());
		return y ^ x;
	}
};

class Service {
      public:
	virtual ~Service() = default;
	virtual uint64_t serve(uint64_t x) = 0;
};

class Throwing final : public Service {
	Engine<Fast> engine;

      public:
	KEEP uint64_t serve(uint64_t x) override
	{
		try {
			return engine.turn(x, [](uint64_t y) -> uint64_t { throw Done(y + 1); });
		} catch (const Done &done) {
			return done.value;
		}
	}
};

KEEP uint64_t alpha(Service &service, uint64_t x) { return service.serve(x + 4) ^ x; }

} // namespace demo

int main(int argc, char **argv)
{
	std::unique_ptr<demo::Service> service = std::make_unique<demo::Throwing>();
	for (double end = until(argc, argv); burnt() < end;)
		sink = demo::alpha(*service, sink);
	return 0;
}
